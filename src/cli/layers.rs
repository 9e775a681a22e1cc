//! Settings in layers: the dataset's defaults, `--config FILE.toml`, flags. The later layer wins.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow, bail};
use toml::{Table, Value};

use super::flags::{Flags, read_config};
use super::inputs::poisoned_as;
use super::misfit::misfit;

use crate::attacks::{self, ATTACKS};
use crate::data::{Spec, shown};
use crate::defenses::{DEFENSES, find, options_of};
use crate::experiment::protocol::{ALSO, RESERVED, one_line, to_table};
use crate::experiment::{AttackPlan, Protocol, RESERVE, TRAINING_OPTIONS, WIDTH};
use crate::nn::MODELS;
use crate::options::{OptionError, OptionSpec};

/// Settings, and which of them the user gave.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub protocol: Protocol,
    /// What the file and the flags say, in the settings' spelling.
    pub given: Table,
}

/// Lays the dataset's defaults, `preset`, the configuration file and the flags over each other.
///
/// # Errors
/// A file that cannot be read, an unknown key or name, a value of the wrong type or out of range.
pub fn resolve(preset: &Table, flags: &Flags) -> Result<Resolved> {
    resolve_from(preset, flags, "the command line")
}

/// The same; `source` is where settings come from that no file has.
///
/// # Errors
/// As [`resolve`].
pub fn resolve_from(preset: &Table, flags: &Flags, source: &str) -> Result<Resolved> {
    let mut given = preset.clone();
    let file = flags.config.as_ref().map(|path| path.display().to_string());
    let mut source = source.to_string();
    if let Some(path) = &flags.config {
        source = path.display().to_string();
        let mut config = read_config(path)?;
        if let Some(chosen) = &flags.defense {
            let chosen = find(chosen)?;
            leave_out(
                &mut config,
                DEFENSES.iter().flat_map(|other| options_of(*other)),
                chosen.name(),
                options_of(chosen),
                &source,
            );
        }
        // Of another tool's attack nothing is known.
        if let Some(Ok(chosen)) = flags.poison.attack.attack.as_deref().map(attacks::find) {
            leave_out(&mut config, ATTACKS.iter().flat_map(|other| other.options), chosen.name, chosen.options.iter(), &source);
            // A file of another attack says what that one's trigger does; a file of none says what the flag's is to do.
            let of_another =
                config.get("attack").and_then(Value::as_str).is_some_and(|name| !name.eq_ignore_ascii_case(chosen.name));
            if let Some(mode) = of_another.then(|| config.remove("target_mode")).flatten() {
                say!("{source}: target_mode = {mode} left out, since it is another attack's");
            }
        }
        given.extend(config);
    }
    let flags = Table::try_from(flags).map_err(|e| anyhow!("{}", one_line(&e)))?;
    given.extend(flags.clone());
    let poisoned = given.get("poisoned").and_then(Value::as_str).map(PathBuf::from);
    if let Some(dir) = &poisoned {
        let recorded = poisoned_as(dir, &given, &flags)?;
        given.extend(recorded);
    }

    let spec = match given.get("dataset") {
        Some(Value::String(name)) => Spec::find(name)?,
        Some(other) => bail!("{source}: dataset must be a name, got {other}"),
        None => Spec::find(Spec::names()[0])?,
    };
    if given.contains_key("dataset") {
        given.insert("dataset".into(), spec.name.clone().into());
    }

    let defaults = to_table(&Protocol::defaults(&spec))?;
    if let Some(also) = given.get_mut(ALSO) {
        complete_also(also, &defaults).map_err(|e| anyhow!("{source}: {e}"))?;
    }

    let mut all = defaults.clone();
    all.extend(given.clone());
    let misfit = |e: toml::de::Error| misfit(&given, &defaults).unwrap_or_else(|| one_line(&e));
    let mut protocol: Protocol = all.try_into().map_err(|e| anyhow!("{source}: {}", misfit(e)))?;
    let defense = protocol.defense()?;
    protocol.defense = defense.name().into();
    // Named where the value stands in the file.
    let within = |e: OptionError| match &file {
        Some(file) if !flags.contains_key(&e.option().replace('-', "_")) => anyhow!("{file}: {e}"),
        _ => e.into(),
    };
    let mut for_defense = protocol.defense_options();
    // The data set may have defaults for the options of another defense.
    let known = |name: &String| given.contains_key(name) || options_of(defense).any(|option| option.name == name);
    for_defense.0.retain(|name, _| known(name));
    let for_defense = for_defense.complete(defense.name(), options_of(defense)).map_err(within)?;
    let mut for_training = protocol.training_options();
    // The data set's width is in channels.
    if let (false, Some(model)) = (given.contains_key("width"), MODELS.iter().find(|m| m.name == protocol.model)) {
        let width = (protocol.options.count(&WIDTH) / model.unit).max(1);
        for_training.0.insert(WIDTH.name.into(), (width as f64).into());
    }
    if !given.contains_key(RESERVE.name) && poisoned.is_none() && defense.needs_clean() {
        for_training.0.insert(RESERVE.name.into(), RESERVED.into());
    }
    let for_training = for_training.complete("training", TRAINING_OPTIONS).map_err(within)?;
    protocol.options = protocol.attack_options();
    match attacks::find(&protocol.attack) {
        Ok(entry) => {
            protocol.attack = entry.name.into();
            protocol.options = protocol.options.complete(entry.name, entry.options).map_err(within)?;
            if !given.contains_key("target_mode") {
                protocol.target_mode = entry.mode;
            }
        }
        // Another tool's images may be of an attack that we do not know.
        Err(_) if poisoned.is_some() => protocol.attack = shown(&protocol.attack),
        Err(unknown) => return Err(unknown.into()),
    }
    protocol.options.0.extend(for_defense.0);
    protocol.options.0.extend(for_training.0);
    if !given.contains_key("out") {
        protocol.out = protocol.default_out();
    }
    protocol.check()?;
    // As `Protocol` spells them: `lr = 1` becomes 1.0.
    let spelled = to_table(&protocol)?;
    for (key, value) in given.iter_mut() {
        if let Some(spelled) = spelled.get(key) {
            *value = spelled.clone();
        }
    }
    Ok(Resolved { protocol, given })
}

/// Gives each attack beside the first the settings that were not given for it.
///
/// # Errors
/// No list of attacks; what [`AttackPlan::read`] refuses, with the place in the list. `defaults`: what the settings' values look like.
fn complete_also(also: &mut Value, defaults: &Table) -> Result<()> {
    let Value::Array(list) = also else {
        bail!("`{ALSO}` is {also}: give each further attack as a table of its own, [[{ALSO}]]")
    };
    for (number, value) in list.iter_mut().enumerate() {
        let within = |e: anyhow::Error| anyhow!("[[{ALSO}]] {}: {e}", number + 1);
        let Value::Table(given) = value else { return Err(within(anyhow!("{value} is no table of an attack's settings"))) };
        let spelled: Table = given.iter().map(|(key, value)| (key.replace('-', "_"), value.clone())).collect();
        let misfit = |e| misfit(&spelled, defaults).map_or(e, |why| anyhow!(why));
        *value = Table::try_from(AttackPlan::read(given).map_err(misfit).map_err(within)?)?.into();
    }
    Ok(())
}

/// Takes out of a file's settings the options that are not among the `own` of what a flag chose, and says so: a run's `run.toml` can be given
/// with another `--defense` or `--attack`.
fn leave_out<'a>(
    config: &mut Table,
    all: impl Iterator<Item = &'a OptionSpec>,
    chosen: &str,
    own: impl Iterator<Item = &'a OptionSpec>,
    source: &str,
) {
    let own: Vec<&str> = own.map(|option| option.name).collect();
    let others = all.map(|option| option.name).filter(|name| !own.contains(name));
    let left: Vec<&str> = others.filter(|name| config.remove(*name).is_some()).collect();
    if !left.is_empty() {
        say!("{source}: left out, since they are no options of {chosen}: {}", left.join(", "));
    }
}

/// Refuses what was given now if it is not what a run began with; `out` may differ, for a folder may be moved.
///
/// # Errors
/// The first setting that differs, with both values.
pub fn agree(given: &Table, began_with: &Protocol, folder: &Path) -> Result<()> {
    let stored = to_table(began_with)?;
    let shown = |value: Option<&Value>| value.map_or("nothing".to_string(), Value::to_string);
    match given.iter().find(|(key, value)| *key != "out" && stored.get(*key) != Some(value)) {
        Some((key, value)) => bail!(
            "this run began with {key} = {}, the command says {key} = {value}: leave it out, or begin again in another folder \
             than {} (--out)",
            shown(stored.get(key)),
            folder.display()
        ),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::flags::known_keys;
    use super::*;
    use crate::attacks::{Draw, TargetMode};
    use crate::options::Options;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn flags(args: &[&str]) -> Flags {
        Line::try_parse_from(std::iter::once(&"dau").chain(args)).expect("parsed").flags
    }

    fn config(text: &str) -> (tempfile::TempDir, String) {
        let place = tempfile::tempdir().expect("a folder");
        let path = place.path().join("c.toml");
        std::fs::write(&path, text).expect("written");
        let shown = path.display().to_string();
        (place, shown)
    }

    fn refusal(args: &[&str]) -> String {
        resolve(&Table::new(), &flags(args)).expect_err("refused").to_string()
    }

    #[test]
    fn later_layers_win() {
        let (_place, path) = config("dataset = \"cifar10\"\nepochs = 7\nweight-decay = 0\nlr = 0.5\n[run]\nversion = \"1\"\n");
        let preset = toml::toml! { out = "there"
        epochs = 5 };
        let found = resolve(&preset, &flags(&["--config", &path, "--lr", "0.25", "--draw", "non-target"])).expect("resolved");
        let (s, training) = (&found.protocol, found.protocol.train_config());
        assert_eq!((s.dataset.as_str(), training.epochs, training.lr, training.sgd.weight_decay), ("CIFAR-10", 7, 0.25, 0.0));
        assert_eq!((s.out.to_str(), s.draw, training.sgd.flip, s.image_size), (Some("there"), Draw::NonTarget, true, 32));
        assert_eq!(found.given["weight_decay"], Value::Integer(0), "as settings spell it");
    }

    #[test]
    fn defaults_are_digits_and_badnets_in_their_own_folder() {
        let settings = resolve(&Table::new(), &Flags::default()).expect("resolved").protocol;
        assert_eq!((settings.dataset.as_str(), settings.attack.as_str()), ("digits", "BadNets"));
        assert_eq!(settings.out, Path::new("runs/digits-badnets-0"));
        assert_eq!(settings.train_config().lr.to_string(), "0.02", "as the dataset's file has it");
    }

    #[test]
    fn what_a_data_set_has_as_defaults_are_settings_and_values_that_do() {
        for name in Spec::names() {
            let spec = Spec::find(name).expect("known");
            let settings = resolve(&Table::new(), &flags(&["--dataset", name, "--data", "x"])).expect("resolved").protocol;
            for (option, value) in &spec.options.0 {
                assert_eq!(settings.options.0.get(option), Some(value), "{name}: {option}");
            }
        }
    }

    #[test]
    fn an_attacks_options_and_usual_mode_are_filled_in() {
        let of = |args: &[&str]| resolve(&Table::new(), &flags(args)).expect("resolved").protocol;
        let badnets = of(&["--patch", "5"]);
        assert_eq!(toml::to_string(&badnets.attack_options()).expect("toml"), "patch = 5\npattern = \"white\"\n");
        assert_eq!(badnets.target_mode, TargetMode::AllToOne);
        assert_eq!(of(&["--attack", "sig"]).target_mode, TargetMode::CleanLabel);
        assert_eq!(of(&["--attack", "sig", "--target-mode", "all-to-one"]).target_mode, TargetMode::AllToOne);
        assert_eq!(refusal(&["--surrogate", "s"]), "BadNets is made without a clean network: leave out --surrogate");
        assert_eq!(refusal(&["--attack", "sig", "--alpha", "0.1"]), "SIG has no option `alpha`; it takes strength, frequency");
    }

    #[test]
    fn classes_are_numbers_with_commas_or_a_list_in_a_file() {
        let of = |args: &[&str]| resolve(&Table::new(), &flags(args)).expect("resolved").protocol;
        let (_place, path) = config("attack = \"TaCT\"\nsource = 4\ncovers = [2, 3]\n");
        let given = of(&["--attack", "tact", "--source", "4", "--covers", "2, 3"]);
        assert_eq!(of(&["--config", &path]), given);
        assert_eq!(given.target_mode, TargetMode::SourceSpecific);
        assert!(toml::to_string(&given).expect("toml").contains("covers = [2, 3]\n"));
        assert_eq!(of(&["--attack", "TaCT"]).options.0["covers"].to_string(), "5,7");
        let does = "give labels of classes, each once, 5,7 for two";
        for (text, is) in [("[]", "[]"), ("[5, 7, 5]", "[5, 7, 5]"), ("\"2,3\"", "\"2,3\""), ("5", "5")] {
            let (_place, path) = config(&format!("attack = \"TaCT\"\ncovers = {text}\n"));
            assert_eq!(refusal(&["--config", &path]), format!("{path}: TaCT: covers `{is}` does not do: {does}"));
        }
        let parsed = Line::try_parse_from(["dau", "--attack", "TaCT", "--covers", "2;3"]).err().expect("refused").to_string();
        assert!(parsed.contains(does), "{parsed}");
        assert!(refusal(&["--attack", "TaCT", "--target-mode", "all-to-one"]).starts_with("TaCT is always source-specific"));
        assert!(refusal(&["--target-mode", "source-specific"]).starts_with("BadNets knows no source class"));
        let no_target = "all-to-all attacks have no one target: leave out --target";
        assert_eq!(refusal(&["--target-mode", "all-to-all", "--target", "3"]), no_target);
        let (_place, path) = config("[[also]]\nattack = \"SIG\"\ntarget_mode = \"all-to-all\"\ntarget = \"cat\"\n");
        assert!(refusal(&["--config", &path]).ends_with(no_target), "{}", refusal(&["--config", &path]));
        let nothing = "CLP flags no images, so that --corrupt-split has nothing to change: leave it out";
        assert_eq!(refusal(&["--defense", "CLP", "--corrupt-split", "0.1"]), nothing);
        assert!(resolve(&Table::new(), &flags(&["--corrupt-split", "0.1"])).is_ok());
    }

    #[test]
    fn a_defenses_options_are_its_own_and_filled_in() {
        let of = |args: &[&str]| resolve(&Table::new(), &flags(args)).expect("resolved").protocol;
        let rate = |protocol: &Protocol| protocol.options.0.get("unlearn_lr").map(ToString::to_string);
        assert_eq!(rate(&of(&[])).as_deref(), Some("0.002"), "as the dataset's file has it");
        assert_eq!(rate(&of(&["--dataset", "cifar10"])).as_deref(), Some("0.003"), "the defense's own");
        assert_eq!(rate(&of(&["--unlearn-lr", "0.1"])).as_deref(), Some("0.1"));
        let abl = of(&["--defense", "abl", "--abl-share", "0.02"]);
        assert_eq!((abl.defense.as_str(), rate(&abl)), ("ABL", None));
        assert_eq!(abl.defense_options().0["abl_share"].to_string(), "0.02");
        let message = refusal(&["--defense", "abl", "--rounds", "3"]);
        assert!(message.starts_with("ABL has no option `rounds`; it takes abl-loss, "), "{message}");
        assert_eq!(refusal(&["--rounds", "0"]), "DAU: rounds `0` does not do: give a whole number of at least 1");
        assert!(refusal(&["--defense", "x"]).starts_with("unknown defense `x`; known are DAU, ABL"));
    }

    #[test]
    fn a_file_of_one_defense_or_attack_does_for_another_that_a_flag_chooses() {
        let of = |args: &[&str]| resolve(&Table::new(), &flags(args)).expect("resolved").protocol;
        let run = toml::to_string(&of(&["--epochs", "7", "--unlearn-lr", "0.1"])).expect("toml");
        let (_place, path) = config(&run);
        let abl = of(&["--config", &path, "--defense", "abl"]);
        assert_eq!((&abl.defense, abl.train_config().epochs), (&"ABL".to_string(), 7));
        assert_eq!(
            abl.options.0,
            { of(&["--defense", "ABL", "--epochs", "7"]).options.0 },
            "ABL's defaults, and the attack's options"
        );
        let same = of(&["--epochs", "7", "--unlearn-lr", "0.1"]);
        assert_eq!(of(&["--config", &path, "--defense", "dau"]), same, "its own stay");
        let sig = of(&["--config", &path, "--attack", "sig"]);
        let plain = of(&["--epochs", "7", "--unlearn-lr", "0.1", "--attack", "SIG"]);
        assert_eq!(sig, Protocol { out: same.out, ..plain }, "SIG's options, and what its trigger does");
        let (_place, path) = config("target_mode = \"all-to-all\"\n");
        let mode = |args: &[&str]| of(&[&["--config", &path], args].concat()).target_mode;
        assert_eq!(mode(&["--attack", "WaNet"]), mode(&[]), "a file of no attack says what the flag's is to do");
        // What the same file or a flag says is not passed over.
        let (_place, path) = config("defense = \"ABL\"\nrounds = 3\n");
        assert!(refusal(&["--config", &path]).starts_with(&format!("{path}: ABL has no option `rounds`")));
        assert!(refusal(&["--config", &path, "--defense", "ABL", "--rounds", "3"]).starts_with("ABL has no option `rounds`"));
    }

    #[test]
    fn normalisation_is_the_datasets_unless_given_as_a_number_or_three() {
        let of =
            |args: &[&str]| resolve(&Table::new(), &flags(args)).expect("resolved").protocol.normalisation().expect("numbers");
        assert_eq!(of(&["--dataset", "cifar10"]).mean, [0.4914, 0.4822, 0.4465]);
        let none = of(&["--mean", "0", "--std", "1"]);
        assert_eq!((none.mean, none.std), ([0.0; 3], [1.0; 3]));
        let (_place, path) = config("mean = [0.1, 0.2, 0.3]\nstd = 0.5\n");
        let given = of(&["--config", &path]);
        assert_eq!((given.mean, given.std), ([0.1, 0.2, 0.3], [0.5; 3]));
        assert_eq!(of(&["--mean", "0.1, 0.2,0.3"]).mean, [0.1, 0.2, 0.3]);
        let two = Line::try_parse_from(["dau", "--mean", "1,2"]).err().expect("refused").to_string();
        assert!(two.contains("`1,2` is neither a number nor three"), "{two}");
    }

    #[test]
    fn settings_survive_run_toml() {
        let args = ["--attack", "blended", "--alpha", "0.1", "--limit-per-class", "9", "--unlearn-loss", "gga", "--data", "x"];
        let settings = resolve(&Table::new(), &flags(&args)).expect("resolved").protocol;
        let text = toml::to_string(&settings).expect("toml");
        let table: Table = toml::from_str(&text).expect("toml");
        assert_eq!(Protocol::from_run(table.clone(), Path::new("run.toml")).expect("read"), settings);
        // Versions before there was a choice wrote none.
        let mut old = table;
        old.retain(|key, _| !["mean", "std", "skip_unreadable"].contains(&key));
        assert_eq!(Protocol::from_run(old, Path::new("run.toml")).expect("read"), settings);
    }

    #[test]
    fn every_flag_is_a_setting_and_every_setting_a_flag() {
        let args = ["--limit-per-class", "9", "--data", "x", "--attack", "LC", "--surrogate", "s"];
        let mut settings = resolve(&Table::new(), &flags(&args)).expect("resolved").protocol;
        settings.poisoned = Some("p".into());
        settings.also = vec![settings.attacks().remove(0)];
        let options = ATTACKS.iter().flat_map(|entry| entry.options).chain(TRAINING_OPTIONS);
        let options = options.chain(DEFENSES.iter().flat_map(|defense| options_of(*defense)));
        settings.options = Options(options.map(|option| (option.name.to_string(), option.default())).collect());
        let mut known = known_keys();
        known.sort();
        assert_eq!(to_table(&settings).expect("table").keys().cloned().collect::<Vec<_>>(), known);
    }

    #[test]
    fn every_flag_stands_under_a_heading() {
        let command = <Flags as clap::Args>::augment_args(clap::Command::new("flags"));
        let stray: Vec<String> =
            command.get_arguments().filter(|arg| arg.get_help_heading().is_none()).map(|arg| arg.get_id().to_string()).collect();
        assert_eq!(stray, [""; 0]);
    }

    #[test]
    fn an_unknown_key_is_answered_with_the_nearest() {
        for (key, nearest) in [("epoch", "epochs"), ("poisonrate", "poison_rate"), ("unlearning-lr", "unlearn_lr")] {
            let (_place, path) = config(&format!("{key} = 1\n"));
            let message = refusal(&["--config", &path]);
            assert!(message.ends_with(&format!("unknown key `{key}`; the nearest known one is `{nearest}`")), "{message}");
        }
    }

    #[test]
    fn a_wrong_type_or_damaged_file_is_named() {
        for (text, expected) in [
            ("epochs = \"many\"", "training: epochs `\"many\"` does not do: give a whole number from 1 to 1000000000"),
            ("epochs = 2.5", "training: epochs `2.5` does not do: give a whole number from 1 to 1000000000"),
            ("seed = -1", "`seed` is -1, a whole number; it takes a whole number from 0 on"),
            ("lr = \"0.1\"", "training: lr `\"0.1\"` does not do: give a number above 0"),
            ("flip = 1", "training: flip `1` does not do: give true or false"),
            ("data = 3", "`data` is 3, a whole number; it takes text in quotes"),
            ("limit_per_class = true", "`limit_per_class` is true, true or false; it takes a whole number from 0 on"),
            (
                "mean = [1, 2]",
                "`mean` is [1, 2], a list; it takes a number, or a list of three, one each for red, green and blue",
            ),
            ("target = [0]", "`target` is [0], a list; it takes a class's number, or its name in quotes"),
            ("patch = [3]", "BadNets: patch `[3]` does not do: give a whole number of pixels from 1"),
            ("patch = [3.5]", "`patch` is [3.5], a list; it takes a whole number of pixels from 1"),
            ("border = { of = 1 }", "`border` is { of = 1 }, a table; it takes "),
            ("draw = 1", "`draw` is 1, a whole number; it takes text in quotes"),
            ("draw = \"some\"", "`draw`: unknown variant `some`, expected `all` or `non-target`"),
            ("model = 18\nlr = 0.5", "`model` is 18, a whole number; it takes text in quotes"),
        ] {
            let (_place, path) = config(text);
            let message = refusal(&["--config", &path]);
            assert!(message.starts_with(&format!("{path}: {expected}")), "{message}");
        }
        let (_place, path) = config("epochs = 3\nlr = = 1\n");
        let message = refusal(&["--config", &path]);
        assert!(message.starts_with(&format!("{path}, line 2: ")), "{message}");
        let (_place, path) = config("batch-size = 3\nlr = nan\n");
        assert!(refusal(&["--config", &path]).contains("nearest known one is `batch`"));
    }

    #[test]
    fn numbers_that_no_file_can_hold_are_refused_by_name() {
        for flag in ["--seed", "--image-size"] {
            let message = Line::try_parse_from(["dau", flag, "18446744073709551615"]).err().expect("refused").to_string();
            assert!(message.contains(flag), "{message}");
        }
    }

    #[test]
    fn values_that_mean_nothing_are_refused() {
        for (args, expected) in [
            (["--poison-rate", "1.5"], "--poison-rate 1.5 is outside 0..1"),
            (["--poison-rate", "NaN"], "--poison-rate NaN is outside 0..1"),
            (["--lr", "nan"], "training: lr `NaN` does not do: give a number above 0"),
            (["--lr", "-1"], "training: lr `-1` does not do: give a number above 0"),
            (["--epochs", "0"], "training: epochs `0` does not do: give a whole number from 1 to 1000000000"),
            (["--epochs", "2.5"], "training: epochs `2.5` does not do"),
            (["--momentum", "1"], "training: momentum `1` does not do: give a share from 0 to below 1"),
            (["--mean", "nan"], "--mean [NaN, NaN, NaN] does not do"),
            (["--mean", "127,0.5,0.5"], "--mean [127.0, 0.5, 0.5] does not do: pixels are 0 to 1"),
            (["--width", "6"], "resnet18: the width must be a multiple of 4, got 6; try 8"),
            (["--std", "1,0,1"], "--std [1.0, 0.0, 1.0] does not do: give numbers above 0"),
            (["--crop-pad", "16"], "--crop-pad 16 does not do for images of 16 pixels"),
            (["--model", "vgg"], "unknown model `vgg`; known are resnet18"),
            (["--dataset", "mnist"], "unknown dataset `mnist`"),
        ] {
            let message = refusal(&args);
            assert!(message.starts_with(expected), "{args:?}: {message}");
        }
    }

    #[test]
    fn only_a_changed_setting_is_a_contradiction() {
        let began = resolve(&Table::new(), &flags(&["--epochs", "3"])).expect("resolved").protocol;
        let now = |args: &[&str]| agree(&resolve(&Table::new(), &flags(args)).expect("resolved").given, &began, Path::new("r"));
        assert!(now(&["--attack", "badnets", "--out", "elsewhere", "--epochs", "3"]).is_ok());
        let message = now(&["--epochs", "4"]).expect_err("refused").to_string();
        assert!(message.starts_with("this run began with epochs = 3, the command says epochs = 4"), "{message}");
        assert!(
            now(&["--patch", "5"]).expect_err("refused").to_string().contains("began with patch = 3, the command says patch = 5")
        );
    }
}
