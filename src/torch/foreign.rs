//! Files that are taken for a state dict and are none: what they are, and what to do with them.

/// Bytes in which a web page says what it is.
const HEAD: usize = 256;

/// Where a tar archive has its mark.
const TAR: usize = 257;

/// What `file` is by its first bytes, and the next step; none where it may be a state dict.
pub fn named(file: &[u8]) -> Option<&'static str> {
    let head = String::from_utf8_lossy(&file[..file.len().min(HEAD)]).to_ascii_lowercase();
    let text = head.trim_start_matches('\u{feff}').trim_start();
    Some(if file.is_empty() {
        "is empty: fetch it again"
    } else if file.starts_with(&[0x1f, 0x8b]) {
        "is compressed by gzip: unpack it first, with gunzip, or with tar xzf where its name ends in .tar.gz"
    } else if file.get(TAR..TAR + 5) == Some(b"ustar") {
        "is a tar archive: unpack it first, with tar xf"
    } else if text.starts_with("version https://git-lfs.github.com/") {
        "is a pointer of Git LFS, not the file that it stands for: in its repository, git lfs pull fetches that"
    } else if text.starts_with("<!doctype html") || text.starts_with("<html") {
        "is a web page, as comes where a download asks for a login or a confirmation: open the address in a browser and save the file"
    } else {
        return None;
    })
}

/// What a zip archive with these `members` is, none of which is torch.save's `data.pkl`, and the next step.
pub fn archive(members: &[&str]) -> String {
    let endings = [".pt", ".pth", ".ckpt", ".safetensors", ".bin", ".pth.tar", ".pt.tar"];
    let inner = members.iter().find(|name| endings.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending)));
    match inner {
        Some(inner) => format!("is a zip archive around {inner:?}: unpack it first and give that file"),
        None => format!(
            "is a zip archive, but not torch.save's, which has a data.pkl: it holds {:?}",
            &members[..members.len().min(4)]
        ),
    }
}
