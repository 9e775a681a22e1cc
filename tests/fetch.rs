//! Fetching data sets from a server in the test itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails so")]
#![cfg(feature = "fetch")]

use dau::data::fetch::{FetchError, Watch, fetch};
use dau::data::{Archive, Spec, verify};
use flate2::Compression;
use flate2::write::GzEncoder;
use image::{Rgb, RgbImage};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Cursor, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// What the server does with a connection.
#[derive(Clone)]
enum Answer {
    /// The file, or the part of it that is asked for.
    Whole,
    /// So much of the body, then the connection is cut.
    Cut(usize),
    /// The file from its beginning, whatever is asked for.
    NoRanges,
    Status(u16),
}

/// Serves `body`, an answer a connection, the last one again and again; remembers the ranges asked for.
struct Server {
    url: String,
    asked: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Server {
    fn new(file: &str, body: Vec<u8>, answers: Vec<Answer>) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/{file}", listener.local_addr().expect("an address"));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let log = asked.clone();
        std::thread::spawn(move || {
            for (n, stream) in listener.incoming().flatten().enumerate() {
                let answer = &answers[n.min(answers.len() - 1)];
                // A client that goes away is its own business.
                let _ = serve(stream, &body, answer, &log);
            }
        });
        Server { url, asked }
    }

    fn asked(&self) -> Vec<Option<usize>> {
        self.asked.lock().expect("sound").clone()
    }
}

fn serve(stream: TcpStream, body: &[u8], answer: &Answer, log: &Mutex<Vec<Option<usize>>>) -> std::io::Result<()> {
    let mut from = None;
    for line in BufReader::new(stream.try_clone()?).lines() {
        let line = line?.to_lowercase();
        if let Some(range) = line.strip_prefix("range: bytes=") {
            from = range.trim_end_matches('-').parse().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    log.lock().expect("sound").push(from);
    let start = if matches!(answer, Answer::NoRanges) { 0 } else { from.unwrap_or(0) };
    let mut stream = stream;
    if let Answer::Status(status) = answer {
        return write!(stream, "HTTP/1.1 {status} Because\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    }
    if start >= body.len() {
        let total = body.len();
        return write!(
            stream,
            "HTTP/1.1 416 No\r\nContent-Range: bytes */{total}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    let rest = &body[start..];
    let range = format!("Content-Range: bytes {start}-{}/{}\r\n", body.len() - 1, body.len());
    let (status, range) = if start > 0 { ("206 Part", range.as_str()) } else { ("200 OK", "") };
    write!(stream, "HTTP/1.1 {status}\r\n{range}Content-Length: {}\r\nConnection: close\r\n\r\n", rest.len())?;
    stream.write_all(if let Answer::Cut(n) = answer { &rest[..*n.min(&rest.len())] } else { rest })
}

/// Does not wait, and remembers what was begun.
#[derive(Default)]
struct Patient(Mutex<Vec<(String, u64, Option<u64>)>>, Mutex<u64>);

impl Watch for Patient {
    fn begin(&self, what: &str, done: u64, total: Option<u64>) {
        self.0.lock().expect("sound").push((what.into(), done, total));
    }
    fn advance(&self, bytes: u64) {
        *self.1.lock().expect("sound") += bytes;
    }
    fn wait(&self, _: u64) {}
}

fn place() -> TempDir {
    tempfile::tempdir().expect("a folder")
}

/// `{train,test}/{a,b}/N.png`, files of different content.
fn images() -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for (n, folder) in (0..).zip(["train/a", "train/b", "test/a", "test/b"]) {
        for i in 0..3u8 {
            let mut png = Cursor::new(Vec::new());
            let picture = RgbImage::from_fn(32, 32, |x, y| Rgb([n * 60 + i, (x * y) as u8, (x * 7 + y * 3) as u8 ^ i]));
            picture.write_to(&mut png, image::ImageFormat::Png).expect("encoded");
            files.push((format!("{folder}/{i}.png"), png.into_inner()));
        }
    }
    files
}

fn tar_of(files: &[(String, Vec<u8>)]) -> tar::Builder<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        tar.append_data(&mut header(bytes.len()), path, bytes.as_slice()).expect("appended");
    }
    tar
}

fn header(bytes: usize) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(bytes as u64);
    header.set_mode(0o644);
    header
}

fn gz(tar: tar::Builder<Vec<u8>>) -> Vec<u8> {
    let mut gz = GzEncoder::new(Vec::new(), Compression::fast());
    gz.write_all(&tar.into_inner().expect("closed")).expect("packed");
    gz.finish().expect("packed")
}

fn zip_of(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (path, bytes) in files {
        zip.start_file(path.as_str(), zip::write::SimpleFileOptions::default()).expect("begun");
        zip.write_all(bytes).expect("written");
    }
    zip.finish().expect("closed").into_inner()
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A folder of images that is to be fetched from `url`.
fn spec(url: &str, sum: &str) -> Spec {
    let archive = Archive { url: url.into(), sha256: Some(sum.into()), md5: None, into: String::new() };
    Spec { archives: vec![archive], ..Spec::find("folder").expect("known") }
}

fn refused(spec: &Spec, dir: &Path) -> String {
    fetch(spec, dir, &Patient::default()).expect_err("refused").to_string()
}

#[test]
fn an_archive_is_fetched_checked_unpacked_and_verified() {
    for (name, bytes) in [("set.tar.gz", gz(tar_of(&images()))), ("set.zip", zip_of(&images()))] {
        let place = place();
        let server = Server::new(name, bytes.clone(), vec![Answer::Whole]);
        let spec = spec(&server.url, &sha256(&bytes));
        let dir = place.path().join("data");
        let watch = Patient::default();
        fetch(&spec, &dir, &watch).expect("fetched");
        for (path, content) in images() {
            assert_eq!(std::fs::read(dir.join(&path)).expect("unpacked"), content, "{path} of {name}");
        }
        assert_eq!(watch.0.lock().expect("sound")[0], (server.url.clone(), 0, Some(bytes.len() as u64)));
        assert_eq!(*watch.1.lock().expect("sound"), bytes.len() as u64);
        assert!(!dir.join(name).exists(), "the archive is not kept");
        let found = verify(&spec, &dir).expect("looked at");
        assert_eq!((found.train, found.test, found.classes, found.checksums), (6, 6, 2, 12));
        assert!(found.faults.is_empty(), "{:?}", found.faults);
        // Once is enough.
        fetch(&spec, &dir, &watch).expect("there");
        assert_eq!(server.asked().len(), 1);
        // Another picture in place of one, and one that is none.
        std::fs::copy(dir.join("train/a/1.png"), dir.join("train/a/2.png")).expect("copied");
        std::fs::write(dir.join("test/b/0.png"), "none").expect("written");
        let faults = verify(&spec, &dir).expect("looked at").faults;
        assert_eq!(faults.len(), 3, "{faults:?}");
        assert!(faults[0].contains("train/a/2.png is not the published file: its SHA-256 is"), "{faults:?}");
        assert!(faults[2].contains("cannot read the image") && faults[2].contains("test/b/0.png"), "{faults:?}");
    }
}

#[test]
fn a_cut_download_is_gone_on_from_where_it_was_cut() {
    let bytes = gz(tar_of(&images()));
    let cuts = vec![Answer::Cut(1000), Answer::Cut(0), Answer::Cut(500), Answer::Status(503), Answer::Whole];
    let server = Server::new("set.tar.gz", bytes.clone(), cuts);
    let place = place();
    fetch(&spec(&server.url, &sha256(&bytes)), place.path(), &Patient::default()).expect("fetched");
    assert_eq!(server.asked(), [None, Some(1000), Some(1000), Some(1500), Some(1500)]);
    assert!(place.path().join("test/b/2.png").is_file());
}

#[test]
fn a_later_call_goes_on_too_and_a_server_without_ranges_begins_anew() {
    let bytes = gz(tar_of(&images()));
    let place = place();
    let part = place.path().join("set.tar.gz.part");
    let dead = Server::new("set.tar.gz", bytes.clone(), vec![Answer::Cut(700), Answer::Cut(0)]);
    let message = refused(&spec(&dead.url, &sha256(&bytes)), place.path());
    assert!(
        message.starts_with(&dead.url) && message.ends_with("700 bytes are kept, run this again to go on from there"),
        "{message}"
    );
    assert_eq!(std::fs::metadata(&part).expect("kept").len(), 700);
    let server = Server::new("set.tar.gz", bytes.clone(), vec![Answer::Whole]);
    fetch(&spec(&server.url, &sha256(&bytes)), place.path(), &Patient::default()).expect("fetched");
    assert_eq!(server.asked(), [Some(700)]);

    for (kept, answer, asked) in [
        (bytes[..300].to_vec(), Answer::NoRanges, vec![Some(300)]),
        // All of it is there but for its name.
        (bytes.clone(), Answer::Whole, vec![Some(bytes.len())]),
        // More than all of it.
        ([&bytes[..], b"more"].concat(), Answer::Whole, vec![Some(bytes.len() + 4), None]),
    ] {
        let place = self::place();
        std::fs::write(place.path().join("set.tar.gz.part"), kept).expect("written");
        let server = Server::new("set.tar.gz", bytes.clone(), vec![answer]);
        fetch(&spec(&server.url, &sha256(&bytes)), place.path(), &Patient::default()).expect("fetched");
        assert_eq!(server.asked(), asked);
        assert!(place.path().join("train/a/0.png").is_file());
    }
}

#[test]
fn a_wrong_checksum_is_refused_and_not_unpacked() {
    let bytes = gz(tar_of(&images()));
    let server = Server::new("set.tar.gz", bytes.clone(), vec![Answer::Whole]);
    let place = place();
    let zeros = "0".repeat(64);
    let message = refused(&spec(&server.url, &zeros), place.path());
    let expected =
        format!("is not the published file: its SHA-256 is {}, not {zeros}; it was removed, run this again", sha256(&bytes));
    assert!(message.ends_with(&expected), "{message}");
    assert_eq!(std::fs::read_dir(place.path()).expect("a folder").count(), 0, "nothing is left");
    // An MD5, where no more is published; somebody's own file is not removed.
    let mut md5 = spec(&server.url, "");
    md5.archives[0].sha256 = None;
    md5.archives[0].md5 = Some("0".repeat(32));
    std::fs::write(place.path().join("set.tar.gz"), &bytes).expect("written");
    let message = refused(&md5, place.path());
    assert!(message.contains("its MD5 is ") && place.path().join("set.tar.gz").is_file(), "{message}");
    assert_eq!(server.asked().len(), 1, "what is there is not fetched");
}

#[test]
fn a_file_that_is_gone_is_said_with_the_way_out() {
    let server = Server::new("set.zip", Vec::new(), vec![Answer::Status(404)]);
    let place = place();
    let message = refused(&spec(&server.url, &"0".repeat(64)), place.path());
    let expected = format!("{} answers 404: fetch it by hand into {} and run this again", server.url, place.path().display());
    assert_eq!(message, expected);
    assert_eq!(server.asked().len(), 1, "asking again would not help");
    let message = refused(&Spec::find("digits").expect("known"), place.path());
    assert!(message.starts_with("digits is not to be fetched"), "{message}");
}

/// `/dev/full` takes nothing, as a full disk.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_said_and_the_download_can_be_gone_on_with() {
    let bytes = gz(tar_of(&images()));
    let server = Server::new("set.tar.gz", bytes.clone(), vec![Answer::Whole]);
    let place = place();
    let part = place.path().join("set.tar.gz.part");
    std::os::unix::fs::symlink("/dev/full", &part).expect("linked");
    let spec = spec(&server.url, &sha256(&bytes));
    let error = fetch(&spec, place.path(), &Patient::default()).expect_err("refused");
    assert!(matches!(error, FetchError::Write { .. }), "{error}");
    let message = error.to_string();
    assert!(message.contains("set.tar.gz.part: No space left on device"), "{message}");
    assert!(message.ends_with("make room and run this again"), "{message}");
    // While unpacking, too; then the archive is there and is not fetched again.
    std::fs::remove_file(&part).expect("removed");
    std::fs::create_dir_all(place.path().join("train/b")).expect("made");
    std::os::unix::fs::symlink("/dev/full", place.path().join("train/b/1.png")).expect("linked");
    let message = refused(&spec, place.path());
    assert!(message.contains("train/b/1.png: No space left on device"), "{message}");
    std::fs::remove_file(place.path().join("train/b/1.png")).expect("removed");
    fetch(&spec, place.path(), &Patient::default()).expect("fetched");
    assert_eq!(server.asked().len(), 2);
    assert_eq!(verify(&spec, place.path()).expect("looked at").faults, Vec::<String>::new());
}

#[test]
fn an_archive_that_leads_outside_or_holds_a_link_is_refused() {
    let file = |path: &str| vec![(path.to_string(), b"bad".to_vec())];
    let evil_tar = |kind: tar::EntryType, path: &str| {
        let mut tar = tar::Builder::new(Vec::new());
        let mut header = header(0);
        header.set_entry_type(kind);
        // The crate would not write such a name itself.
        header.as_old_mut().name[..path.len()].copy_from_slice(path.as_bytes());
        header.set_link_name("/etc/passwd").expect("a name");
        header.set_cksum();
        tar.append(&header, std::io::empty()).expect("appended");
        gz(tar)
    };
    let mut link = zip::ZipWriter::new(Cursor::new(Vec::new()));
    link.add_symlink("train", "/etc", zip::write::SimpleFileOptions::default()).expect("a link");
    let link = link.finish().expect("closed").into_inner();
    for (name, bytes, says) in [
        ("set.tar.gz", evil_tar(tar::EntryType::Regular, "../outside.png"), "`../outside.png` leads outside"),
        ("set.tar.gz", evil_tar(tar::EntryType::Regular, "/tmp/outside.png"), "`/tmp/outside.png` leads outside"),
        ("set.tar.gz", evil_tar(tar::EntryType::Symlink, "train"), "`train` is a link or a device"),
        ("set.tar.gz", evil_tar(tar::EntryType::Link, "train"), "`train` is a link or a device"),
        ("set.zip", zip_of(&file("train/../../outside.png")), "`train/../../outside.png` leads outside"),
        ("set.zip", zip_of(&file("/outside.png")), "`/outside.png` leads outside"),
        ("set.zip", link, "`train` is a link"),
        ("set.zip", b"PK no archive".to_vec(), "cannot be unpacked"),
        ("set.tar.gz", gz(tar_of(&images()))[..200].to_vec(), "set.tar.gz cannot be unpacked"),
    ] {
        let place = place();
        let dir = place.path().join("data");
        std::fs::create_dir(&dir).expect("made");
        std::fs::write(dir.join(name), &bytes).expect("written");
        let message = refused(&spec(&format!("http://127.0.0.1:1/{name}"), &sha256(&bytes)), &dir);
        assert!(message.contains(says), "{message}");
        assert_eq!(std::fs::read_dir(place.path()).expect("a folder").count(), 1, "something outside of {says}");
        assert!(!dir.join("train").is_symlink());
    }
}

#[test]
fn a_dataset_that_somebody_put_there_is_left_alone() {
    let place = place();
    let dir = place.path().join("cifar-10-batches-bin");
    std::fs::create_dir(&dir).expect("made");
    std::fs::write(dir.join("test_batch.bin"), "theirs").expect("written");
    fetch(&Spec::find("CIFAR-10").expect("known"), place.path(), &Patient::default()).expect("nothing to do");
    assert_eq!(std::fs::read_dir(place.path()).expect("a folder").count(), 1);
}
