//! `report.html` of `dau defend`: what was found in images that nobody vouches for.

use std::fmt::Write;

use anyhow::Result;
use serde_json::Value;

use super::networks::{embedded, projection};
use super::page::{begin, figure, plain, prose, settings};
use crate::data::Dataset;
use crate::defenses::Split;
use crate::experiment::{HISTOGRAM, Projection, SHEET, Store};

/// The training images in the groups that the page shows in two dimensions.
pub fn defended_groups(data: &Dataset, split: &Split) -> Vec<(&'static str, Vec<usize>)> {
    let accused = |label: u32| (0..data.len()).any(|i| split.flagged[i] && data.labels[i] == label);
    let accused: Vec<bool> = (0..data.classes.len() as u32).map(accused).collect();
    let named = |i: usize| match (split.flagged[i], accused[data.labels[i] as usize]) {
        (true, _) => "flagged",
        (false, true) => "of the same class, not flagged",
        (false, false) if accused.contains(&true) => "of other classes",
        (false, false) => "not flagged",
    };
    let names = ["not flagged", "of other classes", "of the same class, not flagged", "flagged"];
    names.into_iter().map(|name| (name, (0..data.len()).filter(|&i| named(i) == name).collect())).collect()
}

/// What `dau defend` found: its `words`, a paragraph a line, the pictures that lie in `store`, and of `results` settings and times.
///
/// # Errors
/// A file of the run that cannot be read.
pub fn defend_page(store: &Store, words: &str, seen: &Projection, results: &Value) -> Result<String> {
    let mut page = begin(&format!("{}: is there a backdoor?", plain(&results["dataset"]["name"])));
    for (i, line) in words.lines().filter(|line| !line.is_empty()).enumerate() {
        let class = if i == 0 { " class=\"verdict\"" } else { "" };
        let _ = writeln!(page, "<p{class}>{}</p>", prose(line));
    }
    let sheet = embedded(&std::fs::read(store.path(SHEET))?, "the most suspicious images of each class");
    let names = results["classes"].as_array().into_iter().flatten().enumerate();
    let names: Vec<String> = names.map(|(label, name)| format!("{label} is `{}`", plain(name))).collect();
    let _ = writeln!(
        page,
        "<h2>The most suspicious images</h2>\n<p>A row a class, by its number, the most suspicious first; flagged ones have a red frame.</p>\n{sheet}\n<p>{}.</p>",
        prose(&names.join(", "))
    );
    page += "<h2>All training images</h2>\n";
    page += &figure(&store.read(HISTOGRAM)?, "");
    page += &projection(seen)?;
    let of = |name: &str| results[name].as_object().into_iter().flatten();
    let facts = ["version", "commit", "adapter", "seed"].map(|name| (name.to_string(), plain(&results[name])));
    let seconds = of("seconds").map(|(stage, s)| (format!("seconds: {stage}"), plain(s)));
    let asked = of("config").map(|(name, value)| (name.clone(), plain(value)));
    page += &settings(facts.into_iter().chain(seconds).chain(asked));
    page += "</html>\n";
    Ok(page)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::experiment::{Asked, Cloud};

    #[test]
    fn images_are_grouped_by_what_is_said_of_them_and_of_their_class() {
        let data = Dataset {
            name: "d".into(),
            size: 1,
            classes: vec!["a".into(), "b".into()],
            pixels: vec![0; 12],
            labels: vec![0, 1, 1, 0],
            paths: vec![String::new(); 4],
        };
        let split = Split { flagged: vec![false, true, false, false], score: vec![0.0; 4] };
        let groups = |split: &Split| {
            let mut groups = defended_groups(&data, split);
            groups.retain(|(_, images)| !images.is_empty());
            groups
        };
        let expected = [("of other classes", vec![0, 3]), ("of the same class, not flagged", vec![2]), ("flagged", vec![1])];
        assert_eq!(groups(&split), expected);
        assert_eq!(groups(&Split { flagged: vec![false; 4], ..split }), [("not flagged", vec![0, 1, 2, 3])]);
    }

    #[test]
    fn the_page_says_the_words_and_nothing_that_strangers_wrote_is_more_than_text() {
        let place = tempfile::tempdir().unwrap();
        let store = Store::begin(place.path(), &Asked::default(), "none", None).unwrap();
        store.write(SHEET, b"png").unwrap();
        store.write(HISTOGRAM, b"<svg></svg>").unwrap();
        let seen = Projection {
            explained: [0.75, 0.2],
            clouds: vec![Cloud { name: "flagged".into(), of: 7, points: vec![[1.0, 2.0], [0.0, -1.0]] }],
        };
        let results =
            json!({"dataset": {"name": "<b>"}, "classes": ["<s>", "dog"], "config": {"data": "<i>"}, "seconds": {"train": 1.5}});
        let page = defend_page(&store, "A backdoor in class `<u>`.\n\nMore.\n", &seen, &results).unwrap();
        for part in [
            "<p class=\"verdict\">A backdoor in class <code>&lt;u&gt;</code>.</p>",
            "<p>More.</p>",
            "&lt;b&gt;",
            "0 is <code>&lt;s&gt;</code>, 1 is <code>dog</code>.",
            "&lt;i&gt;",
            "flagged (2 of 7)",
            "principal component 1: 75 % of the variance",
            "seconds: train</th><td>1.5",
            "base64,cG5n",
        ] {
            assert!(page.contains(part), "`{part}` is not in\n{page}");
        }
        assert!(!["<b>", "<i>", "<s>", "<u>"].iter().any(|tag| page.contains(tag)), "{page}");
        assert_eq!(page.matches("<polygon").count(), 3, "two flagged images and the legend's");
    }
}
