//! One file over HTTP, gone on with after a cut.

use super::{FetchError, writing};
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::Path;
use std::time::Duration;
use ureq::Agent;
use ureq::http::{Response, StatusCode};

/// Follows downloads.
pub trait Watch {
    /// `done` of `total` bytes are there already; None: the server does not say.
    fn begin(&self, what: &str, done: u64, total: Option<u64>);

    /// So many bytes more.
    fn advance(&self, bytes: u64);

    /// Before a cut connection is tried again.
    fn wait(&self, seconds: u64) {
        std::thread::sleep(Duration::from_secs(seconds));
    }
}

/// Connections in a row that may bring nothing.
const TRIES: u64 = 3;
/// A connection that lasts longer is given up and gone on with: so none hangs for ever.
const LONGEST: Duration = Duration::from_secs(600);

/// Why a connection ended.
enum Ended {
    Complete,
    Cut(String),
}

/// Brings `url` into `part`, from where that ends. A connection that is cut is made again, as long as it brings something.
pub fn download(url: &str, part: &Path, watch: &dyn Watch) -> Result<(), FetchError> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .timeout_connect(Some(Duration::from_secs(30)))
        .timeout_recv_response(Some(Duration::from_secs(60)))
        .timeout_recv_body(Some(LONGEST));
    let agent: Agent = config.build().into();
    let mut file = OpenOptions::new().create(true).append(true).open(part).map_err(writing(part))?;
    let mut in_vain = 0;
    loop {
        let before = length(&file, part)?;
        match connect(&agent, url, &mut file, part, watch)? {
            Ended::Complete => return file.sync_all().map_err(writing(part)),
            Ended::Cut(cause) => {
                let kept = length(&file, part)?;
                in_vain = if kept > before { 0 } else { in_vain + 1 };
                if in_vain == TRIES {
                    return Err(FetchError::Network { url: url.into(), kept, cause });
                }
                watch.wait(1 << in_vain);
            }
        }
    }
}

fn length(file: &File, part: &Path) -> Result<u64, FetchError> {
    Ok(file.metadata().map_err(writing(part))?.len())
}

fn connect(agent: &Agent, url: &str, file: &mut File, part: &Path, watch: &dyn Watch) -> Result<Ended, FetchError> {
    let have = length(file, part)?;
    let mut request = agent.get(url);
    if have > 0 {
        request = request.header("Range", format!("bytes={have}-"));
    }
    let response = match request.call() {
        Ok(response) => response,
        Err(e) => return Ok(Ended::Cut(e.to_string())),
    };
    let start_anew = |file: &mut File| if have > 0 { file.set_len(0).map_err(writing(part)) } else { Ok(()) };
    let (done, total) = match response.status() {
        StatusCode::PARTIAL_CONTENT if range(&response).is_some_and(|(start, _)| start == Some(have)) => {
            (have, range(&response).and_then(|(_, total)| total))
        }
        StatusCode::OK => {
            // The whole file, asked for or not.
            start_anew(file)?;
            (0, header(&response, "content-length").and_then(|n| n.parse().ok()))
        }
        StatusCode::RANGE_NOT_SATISFIABLE if range(&response).is_some_and(|(_, total)| total == Some(have)) => {
            return Ok(Ended::Complete);
        }
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
            start_anew(file)?;
            return Ok(Ended::Cut("the server sends another part than was asked for".into()));
        }
        status if status.is_server_error() => return Ok(Ended::Cut(format!("the server answers {}", status.as_u16()))),
        status => {
            let dir = part.parent().unwrap_or(Path::new("."));
            return Err(FetchError::Status { url: url.into(), status: status.as_u16(), dir: dir.into() });
        }
    };
    watch.begin(url, done, total);
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0; 1 << 17];
    let mut have = done;
    loop {
        match body.read(&mut buffer) {
            Ok(0) if total.is_some_and(|total| have < total) => return Ok(Ended::Cut("the connection was cut".into())),
            Ok(0) => return Ok(Ended::Complete),
            Ok(n) => {
                file.write_all(&buffer[..n]).map_err(writing(part))?;
                have += n as u64;
                watch.advance(n as u64);
            }
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Ok(Ended::Cut(e.to_string())),
        }
    }
}

fn header<'a, B>(response: &'a Response<B>, name: &str) -> Option<&'a str> {
    response.headers().get(name)?.to_str().ok()
}

/// First byte and whole length of `Content-Range: bytes 5-9/10` or `bytes */10`.
fn range<B>(response: &Response<B>) -> Option<(Option<u64>, Option<u64>)> {
    let (part, total) = header(response, "content-range")?.strip_prefix("bytes ")?.split_once('/')?;
    Some((part.split('-').next()?.parse().ok(), total.parse().ok()))
}
