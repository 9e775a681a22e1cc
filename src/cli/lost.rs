//! A command outlasts the loss of its device, once.

use anyhow::{Result, anyhow};

use super::{Command, Global, Refused};
use crate::gpu::GpuError;

/// Does `command`. Where the device is lost under one that keeps its state, it does it once more on a device opened anew, from what was
/// saved last.
///
/// # Errors
/// The command's; a second loss, with what is kept; the first loss, where nothing is kept.
pub(super) fn outlast(command: &mut Command, global: &Global) -> Result<()> {
    let first = match command.run(global) {
        Err(error) if is_loss(&error) => error,
        done => return done,
    };
    let Some(force) = command.force() else { return Err(anyhow!("{first}: give the command again")) };
    // What was refused had not begun. What had begun is no earlier run that --force would set aside.
    *force &= first.is::<Refused>();
    say!("{first}: once more on a device opened anew, from what was saved last");
    command.run(global).map_err(|second| match is_loss(&second) {
        true if second.is::<Refused>() => anyhow!("{second}, twice: nothing was written since, give the command again"),
        true => anyhow!(
            "{second}, twice: stages that ended are kept, and trainings to their last epoch or minute; the same command goes on"
        ),
        false => second,
    })
}

pub(super) fn is_loss(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| matches!(cause.downcast_ref(), Some(GpuError::Lost { .. })))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::Parser;
    use serde_json::Value;

    use super::*;
    use crate::cli::{Cli, subtask};
    use crate::gpu::loss;

    const TINY: &str = "--width 4 --epochs 2 --limit-per-class 10 --batch 16 --unlearn-steps 30 --seed 3 --json";

    /// Does a command whose devices are lost after so many submits; how it ended, and what is left of the submits.
    fn dau(line: &str, losses: &[usize]) -> (Result<()>, Vec<usize>) {
        let words = line.split_whitespace().map(Into::into);
        let mut cli = Cli::parse_from(subtask::as_subcommand(["dau".into()].into_iter().chain(words)));
        loss::after(losses);
        let done = outlast(&mut cli.command, &cli.global);
        (done, loss::after(&[]))
    }

    /// Does it undisturbed; the submits that it took.
    fn submits(line: &str) -> usize {
        let (done, left) = dau(line, &[usize::MAX]);
        done.unwrap();
        usize::MAX - left[0]
    }

    fn timeless(file: &Path) -> Value {
        let mut results: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        results["seconds"] = Value::Null;
        results["config"]["out"] = Value::Null;
        results
    }

    fn same(folder: &Path, whole: &Path, files: &[&str]) {
        for file in files {
            assert!(fs::read(folder.join(file)).unwrap() == fs::read(whole.join(file)).unwrap(), "{file} differs");
        }
        assert_eq!(timeless(&folder.join("results.json")), timeless(&whole.join("results.json")));
    }

    #[test]
    fn commands_that_keep_their_state_outlast_a_loss() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        let at = |folder: &str| place.join(folder).display().to_string();

        let run = |folder: &str| format!("run {TINY} --out {}", at(folder));
        let whole = submits(&run("whole"));
        let networks = ["backdoored.safetensors", "defended.safetensors", "split.csv"];
        for percent in [0, 25, 90] {
            let folder = format!("lost-{percent}");
            let (done, left) = dau(&run(&folder), &[whole * percent / 100]);
            done.unwrap();
            assert!(left.is_empty(), "nothing was lost");
            same(&place.join(folder), &place.join("whole"), &networks);
        }

        // Begun anew by force, it is set aside once and not twice.
        let (done, _) = dau(&format!("{} --force", run("lost-0")), &[whole / 2]);
        done.unwrap();
        same(&place.join("lost-0"), &place.join("whole"), &networks);
        assert!(place.join("lost-0.1").is_dir() && !place.join("lost-0.2").exists());

        let defend = |folder: &str| format!("defend --dataset digits {TINY} --out {}", at(folder));
        let took = submits(&defend("defend"));
        dau(&defend("defend-lost"), &[took / 3]).0.unwrap();
        same(&place.join("defend-lost"), &place.join("defend"), &["undefended.safetensors", "defended.safetensors"]);

        let bad = place.join("bad/0");
        fs::create_dir_all(&bad).unwrap();
        for i in 0..12u8 {
            image::RgbImage::from_fn(16, 16, |x, y| image::Rgb([i * 20, x as u8, y as u8]))
                .save(bad.join(format!("{i}.png")))
                .unwrap();
        }
        fs::write(place.join("whole/classes.txt"), (0..10).map(|class| format!("{class}\n")).collect::<String>()).unwrap();
        let (made, bad) = (at("whole/backdoored.safetensors"), at("bad"));
        let unlearn =
            |folder: &str| format!("unlearn --checkpoint {made} --suspects {bad} --unlearn-steps 60 --json --out {}", at(folder));
        let took = submits(&unlearn("unlearn"));
        dau(&unlearn("unlearn-lost"), &[took / 2]).0.unwrap();
        same(&place.join("unlearn-lost"), &place.join("unlearn"), &["defended.safetensors"]);

        let part = |part: &str, folder: &str| format!("--subtask {part} {TINY} --out {}", at(folder));
        for name in ["anti_learning", "unlearning", "test"] {
            let took = submits(&part(name, "parts"));
            let (done, left) = dau(&part(name, "parts-lost"), &[took / 2]);
            done.unwrap();
            assert!(left.is_empty(), "nothing was lost");
        }
        same(&place.join("parts-lost"), &place.join("parts"), &networks);
    }

    #[test]
    fn a_second_loss_says_what_is_kept_and_the_same_command_goes_on() {
        let place = tempfile::tempdir().unwrap();
        let at = |folder: &str| place.path().join(folder);
        let run = |folder: &str| format!("run {TINY} --out {}", at(folder).display());
        let whole = submits(&run("whole"));
        let (done, left) = dau(&run("r"), &[whole / 3, 5]);
        assert!(left.is_empty());
        let said = done.expect_err("two losses").to_string();
        for part in ["was lost", "twice", "trainings to their last epoch", "the same command goes on"] {
            assert!(said.contains(part), "{said} does not say {part}");
        }
        dau(&run("r"), &[]).0.unwrap();
        same(&at("r"), &at("whole"), &["backdoored.safetensors", "defended.safetensors"]);
    }

    #[test]
    fn a_command_without_state_ends_with_the_loss() {
        let place = tempfile::tempdir().unwrap();
        let made = place.path().join("r/backdoored.safetensors");
        dau(&format!("run {TINY} --out {}", place.path().join("r").display()), &[]).0.unwrap();
        let out = place.path().join("logits.safetensors");
        let predict = format!("predict --checkpoint {} --dataset digits --out {}", made.display(), out.display());
        for (line, submits) in
            [(predict.as_str(), 2), ("selftest", 3), ("bench --step --model resnet18 --width 4 --batch 4 --image-size 16", 1)]
        {
            let (done, left) = dau(line, &[submits]);
            assert!(left.is_empty(), "{line}: nothing was lost");
            let said = done.expect_err("a loss").to_string();
            assert!(said.contains("was lost") && said.ends_with("give the command again"), "{line}: {said}");
        }
        assert!(!out.exists());
    }
}
