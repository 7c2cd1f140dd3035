//! Huge pages, by their size.
#![forbid(unsafe_code)]

use super::control::Write;
use crate::error::{Error, ErrorKind, Result};
use crate::feature::words;
use std::path::Path;

/// As the kernel names a size in its files: `2MB`, `1GB`, `64KB`.
pub(super) fn size_name(bytes: u64) -> String {
    match bytes {
        _ if bytes >= 1 << 30 => format!("{}GB", bytes >> 30),
        _ if bytes >= 1 << 20 => format!("{}MB", bytes >> 20),
        _ => format!("{}KB", bytes >> 10),
    }
}

/// Bounds what is touched and, where the kernel counts that (Linux 5.7), what is reserved: without, a program that
/// has got its mapping is killed by SIGBUS when it uses it.
pub(super) fn set(page_size: u64, bytes: u64, dir: &Path, v2: bool) -> Result<String> {
    let size = size_name(page_size);
    let files = match v2 {
        true => [format!("hugetlb.{size}.max"), format!("hugetlb.{size}.rsvd.max")],
        false => [format!("hugetlb.{size}.limit_in_bytes"), format!("hugetlb.{size}.rsvd.limit_in_bytes")],
    };
    let [touched, reserved] = files.map(|file| Write::new(dir, file));
    if !touched.exists() {
        let error = Error::new(ErrorKind::Unsupported, "hugetlb_max").with_path(dir);
        return Err(error.lacks(words::no_huge_pages(Some(&size))));
    }
    for write in [touched, reserved].iter().filter(|write| write.exists()) {
        write.put(&bytes.to_string())?;
        write.verify(|kept| kept == bytes.to_string(), &bytes.to_string())?;
    }
    Ok(format!("{bytes} in pages of {size}"))
}

#[cfg(test)]
mod tests {
    use super::size_name;

    #[test]
    fn sizes() {
        assert_eq!([64 << 10, 2 << 20, 512 << 20, 1 << 30].map(size_name), ["64KB", "2MB", "512MB", "1GB"]);
    }
}
