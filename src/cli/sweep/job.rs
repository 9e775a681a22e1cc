//! A cell with what doing it needs: its settings checked, its folder, and the networks that it shares.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use toml::Table;

use super::super::flags::{Flags, known_as, known_keys};
use super::super::layers::resolve_from;
use crate::defenses::{self, DEFENSES, Defense, options_of};
use crate::experiment::protocol::{CORRUPT_SPLIT, RESERVED};
use crate::experiment::sweep::{Cell, Sweep, record};
use crate::experiment::{Asked, LOCK, Protocol, RESERVE, Record};
use crate::files::write_atomic;

/// A cell, ready to be done.
pub struct Job {
    /// Its place among all cells, for `--cell`.
    pub number: usize,
    pub cell: Cell,
    pub protocol: Protocol,
    /// The network that all cells share which differ in their defense alone.
    pub victim: PathBuf,
    /// The sweep's folder.
    root: PathBuf,
}

/// How far a cell is.
pub enum State {
    Ended(Box<Record>),
    /// Its record cannot be read.
    Damaged(String),
    /// A process is at it.
    Running,
    /// The last try failed.
    Failed(String),
    /// It was begun, and nobody is at it.
    Stopped,
    Waiting,
}

impl State {
    pub fn name(&self) -> &'static str {
        match self {
            State::Ended(_) => "ended",
            State::Damaged(_) => "damaged",
            State::Running => "running",
            State::Failed(_) => "failed",
            State::Stopped => "stopped",
            State::Waiting => "-",
        }
    }
}

impl Job {
    pub fn state(&self) -> State {
        match record(&self.protocol.out) {
            Ok(Some(record)) => return State::Ended(Box::new(record)),
            Err(error) => return State::Damaged(error.to_string()),
            Ok(None) => {}
        }
        // A lock that is shared keeps nobody from looking, too, and none that cannot be had now is waited for.
        let lock = File::open(self.protocol.out.join(LOCK)).map(|file| file.try_lock_shared());
        if matches!(lock, Ok(Err(TryLockError::WouldBlock))) {
            return State::Running;
        }
        match fs::read_to_string(self.failure()) {
            Ok(why) => State::Failed(why),
            Err(_) if self.protocol.out.is_dir() => State::Stopped,
            Err(_) => State::Waiting,
        }
    }

    /// The networks that it needs and nobody has made yet.
    pub fn missing(&self) -> impl Iterator<Item = &Path> {
        [self.protocol.surrogate.as_deref(), Some(self.victim.as_path())].into_iter().flatten().filter(|path| !path.is_file())
    }

    /// Why the last try failed.
    fn failure(&self) -> PathBuf {
        self.beside("failed", "txt")
    }

    /// What its process said, if it had one of its own.
    pub fn log(&self) -> PathBuf {
        self.beside(LOGS, "log")
    }

    fn beside(&self, folder: &str, ending: &str) -> PathBuf {
        let name = self.protocol.out.file_name().unwrap_or_default().to_string_lossy();
        self.root.join(folder).join(format!("{name}.{ending}"))
    }

    /// Keeps why it failed, for whoever lists the cells; nothing of an earlier try is left where it did not.
    ///
    /// # Errors
    /// A disk that refuses.
    pub fn keep(&self, failure: Option<&str>) -> Result<()> {
        let path = self.failure();
        let failed = |e: std::io::Error| anyhow!("cannot write {}: {e}", path.display());
        match failure {
            Some(why) => {
                fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).map_err(failed)?;
                write_atomic(&path, why.as_bytes()).map_err(failed)
            }
            None if path.is_file() => fs::remove_file(&path).map_err(failed),
            None => Ok(()),
        }
    }
}

/// The folder of what processes said.
pub const LOGS: &str = "logs";

/// Every cell with its settings checked.
///
/// # Errors
/// A setting that cannot be, by the cell.
pub fn jobs(sweep: &Sweep) -> Result<Vec<Job>> {
    let known = known_keys();
    let cells = sweep.cells()?;
    let preset = |cell: &Cell| -> Result<Table> {
        let spelled = |(key, value): (&String, &toml::Value)| Ok((known_as(key, &known)?, value.clone()));
        cell.settings.iter().map(spelled).collect::<Result<Table>>().map_err(|e| anyhow!("{cell}: {e}"))
    };
    let mut presets = cells.iter().map(preset).collect::<Result<Vec<Table>>>()?;
    let defense_of = |preset: &Table| -> Option<&'static dyn Defense> {
        let name = preset.get("defense").map_or(Some(DEFENSES[0].name()), toml::Value::as_str);
        name.and_then(|name| defenses::find(name).ok())
    };
    // An option of one defense that stands under [all] is for that defense's cells.
    let declares = |defense: &'static dyn Defense, key: &str| options_of(defense).any(|option| option.name == key);
    let chosen: Vec<_> = presets.iter().filter_map(defense_of).collect();
    let of_all: Vec<String> = sweep.all.keys().map(|key| known_as(key, &known)).collect::<Result<_>>()?;
    for preset in &mut presets {
        let Some(own) = defense_of(preset) else { continue };
        let of_others = |key: &str| !declares(own, key) && chosen.iter().any(|defense| declares(*defense, key));
        preset.retain(|key, _| !(of_all.iter().any(|known| known == key) && of_others(key)));
    }
    // Where one defense needs clean images, all cells go without these: the others are to be compared with it.
    let reserve = chosen.iter().any(|defense| defense.needs_clean());
    let job = |(number, (cell, mut preset)): (usize, (Cell, Table))| -> Result<Job> {
        if reserve {
            preset.entry(RESERVE.name).or_insert(RESERVED.into());
        }
        let resolved = resolve_from(&preset, &Flags::default(), "its settings").map_err(|e| anyhow!("{cell}: {e}"))?;
        let mut protocol = resolved.protocol;
        let name: Vec<&str> = cell.axes.values().map(String::as_str).collect();
        let name = name.join("-").to_lowercase().replace(|c: char| !c.is_ascii_alphanumeric() && c != '.', "-");
        // A clean network for attacks that are made with its gradients: one for all cells that are trained alike.
        if protocol.poisoned.is_none() && protocol.surrogate.is_none() && protocol.needs_surrogate()? {
            protocol.surrogate = Some(shared(&sweep.out.join("surrogates").join("clean"), &protocol, true)?);
        }
        let victim = shared(&sweep.out.join("victims").join("network"), &protocol, false)?;
        protocol.out = Asked::of(&protocol)?.own_folder(&sweep.out.join("cells").join(name));
        Ok(Job { number, cell, protocol, victim, root: sweep.out.clone() })
    };
    cells.into_iter().zip(presets).enumerate().map(job).collect()
}

/// The network that all share whose settings but the defense's, or `clean`, but the attack's too, are the same.
fn shared(prefix: &Path, protocol: &Protocol, clean: bool) -> Result<PathBuf> {
    let mut asked = Asked::of(protocol)?;
    let defense = protocol.defense()?;
    options_of(defense).for_each(|option| drop(asked.settings.remove(option.name)));
    asked.settings.retain(|key, _| !["defense", CORRUPT_SPLIT].contains(&key));
    if clean {
        asked.settings = protocol.without_poisoning()?.into_iter().filter(|(key, _)| asked.settings.contains_key(key)).collect();
    }
    Ok(asked.own_folder(prefix).with_extension("safetensors"))
}
