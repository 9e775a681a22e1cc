//! `dau data`: which data sets there are, fetching them, and whether a folder holds what was published.

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use super::{Global, Refuse, print, print_json};
use crate::data::{Spec, shown, verify};

#[derive(Subcommand, Clone, Debug)]
pub enum DataCommand {
    /// The data sets: images, classes, where from
    List,
    /// Downloads a data set, checks it and unpacks it; goes on with what was cut off
    #[cfg(feature = "fetch")]
    Fetch(Place),
    /// Checks checksums, as far as any are known, and that every image can be read
    Verify(Place),
}

#[derive(Args, Clone, Debug)]
pub struct Place {
    /// One of `dau data list`
    name: String,
    /// The folder that holds it
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
}

pub fn run(command: &DataCommand, global: &Global) -> Result<()> {
    match command {
        DataCommand::List => list(global),
        #[cfg(feature = "fetch")]
        DataCommand::Fetch(place) => fetch::run(place, global),
        DataCommand::Verify(place) => check(place, global),
    }
}

fn list(global: &Global) -> Result<()> {
    let specs = Spec::names().into_iter().map(Spec::find).collect::<Result<Vec<_>, _>>()?;
    let how = |spec: &Spec| match (spec.layouts.iter().any(|l| l.find.is_none()), spec.archives.is_empty()) {
        (true, _) => "built in",
        (_, true) => "yours",
        _ => "dau data fetch",
    };
    if global.json {
        let rows = specs.iter().map(|spec| {
            let urls: Vec<&str> = spec.archives.iter().map(|archive| archive.url.as_str()).collect();
            serde_json::json!({
                "name": spec.name, "classes": spec.classes, "image_size": spec.image_size, "images": spec.images,
                "how": how(spec), "source": spec.source, "license": spec.license, "archives": urls,
            })
        });
        return print_json(&rows.collect::<Vec<_>>());
    }
    let mut table = format!("{:14} {:>7} {:>6} {:>15}  {:14}  source\n", "name", "classes", "pixels", "train + test", "how");
    for spec in &specs {
        let images = spec.images.map_or("any".into(), |(train, test)| format!("{train} + {test}"));
        let classes = if spec.classes == 0 { "any".into() } else { spec.classes.to_string() };
        table +=
            &format!("{:14} {classes:>7} {:>6} {images:>15}  {:14}  {}\n", spec.name, spec.image_size, how(spec), spec.source);
    }
    print(&table)
}

fn check(Place { name, data }: &Place, global: &Global) -> Result<()> {
    let spec = Spec::find(name).refuse()?;
    if spec.layouts.iter().any(|layout| layout.find.is_none()) {
        return print(&format!("{} is built in: there is nothing to verify\n", spec.name));
    }
    let found = verify(&spec, data)?;
    if global.json {
        print_json(&found)?;
    } else {
        let checksums = match found.checksums {
            0 => "none is known for what lies here: only the structure was checked".to_string(),
            n => format!("of {n} files compared"),
        };
        let (train, test, classes) = (found.train, found.test, found.classes);
        print(&format!(
            "{} in {}, layout {}\nchecksums  {checksums}\nimages     {train} training and {test} test images of {classes} classes \
             can be read\n",
            spec.name,
            data.display(),
            found.layout
        ))?;
        found.notices.iter().try_for_each(|notice| print(&format!("notice     {notice}\n")))?;
        found.faults.iter().try_for_each(|fault| print(&format!("fault      {}\n", shown(fault))))?;
    }
    match found.faults.len() {
        0 => Ok(()),
        n => bail!("{} has {n} fault(s): repair these files or fetch it again into an empty folder", data.display()),
    }
}

#[cfg(feature = "fetch")]
mod fetch {
    use std::cell::RefCell;
    use std::io::IsTerminal;

    use indicatif::{ProgressBar, ProgressStyle};

    use super::*;
    use crate::data::fetch::{FetchError, Watch, fetch};

    pub fn run(Place { name, data }: &Place, global: &Global) -> Result<()> {
        let spec = Spec::find(name).refuse()?;
        match fetch(&spec, data, &Bar::default()) {
            nothing @ Err(FetchError::NothingToFetch { .. }) => nothing.refuse()?,
            done => done?,
        }
        let (name, data) = (&spec.name, data.display());
        if global.json {
            return print_json(&serde_json::json!({"dataset": name, "data": data.to_string()}));
        }
        print(&format!("{name} is in {data}\nnext: dau run --dataset {name} --data {data}\n"))
    }

    /// A bar on a terminal, a line a file in a log.
    #[derive(Default)]
    struct Bar(RefCell<Option<ProgressBar>>);

    /// What a bar shows; kept valid by a test.
    const STYLE: &str = "[{bar:20}] {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left";

    impl Watch for Bar {
        fn begin(&self, what: &str, done: u64, total: Option<u64>) {
            if let Some(before) = self.0.take() {
                before.finish_and_clear();
            }
            let from = if done > 0 { format!(", from byte {done}") } else { String::new() };
            let size = total.map_or(String::new(), |total| format!(", {:.1} MB", total as f64 / 1e6));
            say!("{what}{size}{from}");
            if let Some(total) = total.filter(|_| std::io::stderr().is_terminal()) {
                let style = ProgressStyle::with_template(STYLE).unwrap_or_else(|_| ProgressStyle::default_bar());
                let bar = ProgressBar::new(total).with_style(style.progress_chars("=> ")).with_position(done);
                self.0.replace(Some(bar));
            }
        }

        fn advance(&self, bytes: u64) {
            if let Some(bar) = &*self.0.borrow() {
                bar.inc(bytes);
            }
        }
    }

    #[test]
    fn the_style_of_a_bar_is_valid() {
        assert!(ProgressStyle::with_template(STYLE).is_ok());
    }
}
