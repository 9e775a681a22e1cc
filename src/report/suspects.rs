//! What was found in data that nobody vouches for, as files: `suspects.csv` (`path,label,score,verdict,suspicion`, the most suspicious first),
//! a contact sheet, a histogram and the verdict; and reading such a list, or anyone's, back.

use std::io::Cursor;
use std::path::{MAIN_SEPARATOR, Path};

use csv::Writer;
use image::ImageFormat;

use super::Verdict;
use super::histogram::histogram;
use super::sheet::{by_suspicion, sheet};
use crate::attacks::Role;
use crate::data::Dataset;
use crate::defenses::dau::Findings;
use crate::experiment::{CLASSES, HISTOGRAM, ImageList, Places, SHEET, SUSPECTS, Store, StoreError, VERDICT, VERDICTS, cell};

/// Writes [`SUSPECTS`], [`SHEET`], [`HISTOGRAM`], [`VERDICT`] and [`CLASSES`]. Paths are given below `dir`, where the images lie.
///
/// # Errors
/// A disk that refuses.
pub fn write_findings(
    folder: &Store,
    data: &Dataset,
    dir: &Path,
    findings: &Findings,
    verdict: &Verdict,
) -> Result<(), StoreError> {
    folder.write(SUSPECTS, &suspects_csv(data, dir, findings, &folder.path(SUSPECTS))?)?;
    let mut png = Cursor::new(Vec::new());
    let failed = |e: image::ImageError| StoreError::Encode { path: folder.path(SHEET), why: e.to_string() };
    sheet(data, findings).write_to(&mut png, ImageFormat::Png).map_err(failed)?;
    folder.write(SHEET, png.get_ref())?;
    let title = format!("{} of {} training images flagged", verdict.flagged, data.len());
    folder.write(HISTOGRAM, histogram(&findings.split, &title).as_bytes())?;
    folder.write(VERDICT, verdict.text().as_bytes())?;
    folder.write(CLASSES, (data.classes.join("\n") + "\n").as_bytes())
}

fn suspects_csv(data: &Dataset, dir: &Path, findings: &Findings, path: &Path) -> Result<Vec<u8>, StoreError> {
    let failed = |why: String| StoreError::Encode { path: path.into(), why };
    let mut csv = Writer::from_writer(Vec::new());
    csv.write_record(["path", "label", "score", "verdict", "suspicion"]).map_err(|e| failed(e.to_string()))?;
    for i in by_suspicion(findings) {
        let place = Path::new(&data.paths[i]);
        let place = place.strip_prefix(dir).unwrap_or(place).display().to_string().replace(MAIN_SEPARATOR, "/");
        let (label, verdict) = (&data.classes[data.labels[i] as usize], VERDICTS[usize::from(findings.split.flagged[i])]);
        let [score, suspicion] = [findings.split.score[i], findings.suspicion[i]].map(|number| format!("{number:.4}"));
        let row = [&*cell(&place), &*cell(label), &score, verdict, &suspicion];
        csv.write_record(row).map_err(|e| failed(e.to_string()))?;
    }
    csv.into_inner().map_err(|e| failed(e.to_string()))
}

/// Reads a list of bad images of `data`, which lies in `dir`, and of images `aside`, which were set aside for the test; says which are bad of
/// either. A path a line, as a whole, from the root or below `dir` or its `train/`; or a table
/// whose heading names `path`, of which rows count whose `verdict` or `role`, if there is one, is `poisoned`. `path` is for
/// messages.
///
/// # Errors
/// A line that names no image of either; no suspect in the data.
pub fn parse_suspects(text: &str, path: &Path, [data, aside]: [&Dataset; 2], dir: &Path) -> Result<[Vec<bool>; 2], StoreError> {
    let wrong = |line: usize, why: String| StoreError::List { path: path.into(), line, why };
    let places = [data, aside].map(|set| Places::of(dir, set));
    let list = ImageList::read(text, path, &["path"])?;
    let said = list.column("verdict").or(list.column("role"));
    let mut flagged = [data, aside].map(|set| vec![false; set.len()]);
    for line in list.lines() {
        let Some((which, i)) = (0..2).find_map(|which| Some((which, places[which].find(&line)?))) else {
            let why = format!("`{}` is no training image of {}: give paths below that folder", line.name(), dir.display());
            return Err(wrong(line.number, why));
        };
        let is_bad = |said: &str| said.eq_ignore_ascii_case(Role::Poisoned.name());
        flagged[which][i] |= said.is_none() || line.cell(said).is_some_and(is_bad);
    }
    if !flagged[0].contains(&true) {
        return Err(wrong(1, "names no suspect: there is nothing to unlearn".into()));
    }
    Ok(flagged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::defenses::Split;

    fn data() -> Dataset {
        Dataset {
            name: "test".into(),
            size: 1,
            classes: vec!["cat, big".into(), "dog".into()],
            pixels: vec![0; 12],
            labels: vec![0, 1, 1, 0],
            paths: ["d/train/cat, big/1.png", "d/train/dog/1.png", "d/train/dog/2.png", "elsewhere.png"].map(Into::into).into(),
        }
    }

    #[test]
    fn what_is_written_reads_back_as_the_same_suspects() {
        let split = Split { flagged: vec![true, false, true, false], score: vec![0.7, 0.2, 0.9, 0.0] };
        let findings = Findings::of(split);
        let bytes = suspects_csv(&data(), Path::new("d"), &findings, Path::new("s")).expect("written");
        let text = String::from_utf8(bytes).expect("text");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["path,label,score,verdict,suspicion", "train/dog/2.png,dog,0.9000,poisoned,0.0000"]);
        assert_eq!(lines[4], "elsewhere.png,\"cat, big\",0.0000,clean,0.0000");
        let none = data().subset(&[]);
        let back = parse_suspects(&text, Path::new("s"), [&data(), &none], Path::new("d")).expect("read");
        assert_eq!(back, [findings.split.flagged, Vec::new()]);
        // Two of the images were set aside for the test.
        let (train, test) = (data().subset(&[0, 1]), data().subset(&[2, 3]));
        let back = parse_suspects(&text, Path::new("s"), [&train, &test], Path::new("d")).expect("read");
        assert_eq!(back, [vec![true, false], vec![true, false]]);
    }

    #[test]
    fn a_bare_list_names_images_by_any_of_their_paths_and_others_are_refused_by_line() {
        let none = data().subset(&[]);
        let read = |text: &str| {
            let read = parse_suspects(text, Path::new("s"), [&data(), &none], Path::new("d"));
            read.map(|[bad, _]| bad).map_err(|e| e.to_string())
        };
        assert_eq!(read("dog/1.png\ntrain/dog/2.png\nelsewhere.png\n"), Ok(vec![false, true, true, true]));
        assert_eq!(read("path,role\ndog/1.png,negative\ndog/2.png,poisoned\n"), Ok(vec![false, false, true, false]));
        let error = read("dog/1.png\ndog/9.png\n").expect_err("no such image");
        assert_eq!(error, "s, line 2: `dog/9.png` is no training image of d: give paths below that folder");
        // As other tools and hands write them.
        assert_eq!(read("\u{feff}Score, PATH ,Verdict\n1,dog/1.png,Poisoned\n"), Ok(vec![false, true, false, false]));
        let whole = std::path::absolute("d/train/dog/1.png").expect("a path");
        for name in ["./dog/1.png", "./train/./dog/1.png", "d/train/dog/1.png", "./d//train/dog/1.png", "train\\dog\\1.png"] {
            assert_eq!(read(&format!("{name}\n")), Ok(vec![false, true, false, false]), "{name}");
        }
        assert_eq!(read(&format!("{}\n", whole.display())), Ok(vec![false, true, false, false]));
        for line in ["cat, big/1.png", "d/train/cat, big/1.png", "\"cat, big/1.png\""] {
            assert_eq!(read(&format!("{line}\n")), Ok(vec![true, false, false, false]), "{line}");
        }
        assert_eq!(read("path,label,verdict\ncat, big/1.png,x,poisoned\n"), Ok(vec![true, false, false, false]));
        assert!(read("path,label,verdict\ncat, big/1.png,x,clean\n").expect_err("none").contains("names no suspect"));
        assert!(read("../d2/dog/1.png\n").expect_err("outside").contains("is no training image"));
        assert!(read("path,verdict\ndog/1.png,clean\n").expect_err("none").contains("names no suspect"));
    }
}
