//! Archives and URLs.

use super::*;
use std::io::Write;
use std::process::{Command, Stdio};

fn packed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new(program).arg("-c").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success());
    out.stdout
}

fn add(file: &[u8], text: &str) -> Result<String> {
    let store = Store::temp()?;
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("t"), file).unwrap();
    fs::set_permissions(dir.path().join("t"), fs::Permissions::from_mode(0o644)).unwrap();
    let context = Context::dir(&store, dir.path())?;
    let transfer = instruction(text, "/");
    transfer.digest(&store, From::Context(&context))?;
    Ok(shown(&transfer.layer(&store, From::Context(&context), None)?).join(" | "))
}

const ARCHIVE: &str = "700 3:4 d/ | 5:6 d/f =one | d/l -> f | d/h => d/f | e/g =two";

#[test]
fn archives_are_unpacked_by_add_alone() {
    let plain = tar(ARCHIVE);
    let gzip = packed("gzip", &plain);
    let unpacked = "755 x/ | 700 3:4 x/d/ | 644 5:6 x/d/f =one | 5:6 x/d/h => x/d/f | x/d/l -> f | 755 x/e/ | 644 x/e/g =two";
    for file in [&plain, &gzip] {
        assert_eq!(add(file, "ADD t /x/").unwrap(), unpacked);
        assert_eq!(add(file, "ADD t* x").unwrap(), unpacked);
        assert!(add(file, "ADD --unpack=false t /x/").unwrap().starts_with("755 x/ | 644 x/t ="));
    }
    #[cfg(feature = "zstd")]
    assert_eq!(add(&zstd::encode_all(&plain[..], 1).unwrap(), "ADD t /x/").unwrap(), unpacked);
    // BuildKit's testDockerfileAddChownArchive.
    assert_eq!(
        add(&plain, "ADD --chown=100:200 t /o/").unwrap(),
        "755 100:200 o/ | 700 100:200 o/d/ | 644 100:200 o/d/f =one | 100:200 o/d/h => o/d/f | 100:200 o/d/l -> f \
         | 755 100:200 o/e/ | 644 100:200 o/e/g =two"
    );
    assert!(add(&plain, "COPY t /x/").unwrap().starts_with("755 x/ | 644 x/t ="));
    // Compressed, or a tar file's beginning, and no archive.
    assert!(
        add(&packed("gzip", b"text"), "ADD --unpack t /").is_ok_and(|lines| lines.starts_with("644 t ="))
    );
    for file in [&b"text"[..], &[0; 1024], b"", b"BZh9", b"\x1f\x8b\x08"] {
        let lines = add(file, "ADD t /");
        if file == b"BZh9" {
            continue;
        }
        assert!(lines.is_ok_and(|lines| lines.starts_with("644 t =")), "{file:?}");
    }
    // One that breaks later is an error, and no half of it a layer.
    let error = add(&plain[..plain.len() - 1500], "ADD t /x/").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidData, "{error}");
}

#[test]
#[ignore = "needs xz and bzip2"]
fn other_compressions_are_left_to_programs_of_the_host() {
    let plain = tar(ARCHIVE);
    for program in ["xz", "bzip2"] {
        let packed = packed(program, &plain);
        assert_eq!(add(&packed, "ADD t /x/").unwrap(), add(&plain, "ADD t /x/").unwrap(), "{program}");
        let error = add(&packed[..packed.len() / 2], "ADD t /x/");
        assert!(error.is_err() || error.is_ok_and(|lines| lines.starts_with("755 x/ | 644 x/t =")));
    }
}

#[test]
fn a_url_has_a_name() {
    for (url, name) in [
        ("https://e.com/a/b.tar.gz", "b.tar.gz"),
        ("https://e.com/a%20b?x=/y#/z", "a b"),
        ("https://e.com/a/", "a"),
        ("https://e.com/", "__unnamed__"),
        ("https://e.com", "__unnamed__"),
        ("https://e.com/..", "__unnamed__"),
        ("https://e.com/a%2f..%2fb", "b"),
    ] {
        assert_eq!(String::from_utf8_lossy(&super::super::remote::file_name(url)), name, "{url}");
    }
}

#[test]
fn flags_for_what_is_elsewhere() {
    let sum = "sha256:".to_owned() + &"0".repeat(64);
    for text in [
        "COPY https://e.com/x /".to_owned(),
        "COPY git@e.com:x /".to_owned(),
        format!("ADD --checksum={sum} f /"),
        format!("ADD --checksum={sum} https://e.com/a https://e.com/b /"),
        "ADD --checksum=md5:00 https://e.com/a /".to_owned(),
        "ADD --keep-git-dir=true https://e.com/a.git?keep-git-dir=false /".to_owned(),
    ] {
        case("f =1", "", &text).fails(ErrorKind::InvalidInput, "");
    }
    #[cfg(not(feature = "registry"))]
    case("f =1", "", "ADD https://e.com/a /").fails(ErrorKind::Unsupported, "feature `registry`");
}

#[cfg(feature = "registry")]
mod served {
    use super::*;
    use std::io::BufRead;
    use std::net::TcpListener;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Answers each request with this, until the test ends; and counts them.
    fn serve(body: &'static [u8]) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (address, asked) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let counter = asked.clone();
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let mut connection = connection.unwrap();
                let mut lines = std::io::BufReader::new(connection.try_clone().unwrap()).lines();
                let Some(Ok(first)) = lines.next() else { continue };
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                counter.fetch_add(1, Ordering::Relaxed);
                let status = if first.contains("/missing") { "404 Not Found" } else { "200 OK" };
                let head = format!(
                    "HTTP/1.1 {status}\r\nLast-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Length: {}\r\n\
                     Connection: close\r\n\r\n",
                    body.len()
                );
                connection.write_all(head.as_bytes()).unwrap();
                connection.write_all(body).unwrap();
            }
        });
        (format!("http://{address}"), asked)
    }

    #[test]
    fn a_url_is_got_once_and_verified() {
        let (server, asked) = serve(b"content");
        let store = Store::temp().unwrap();
        let context = Context::empty();
        let from = From::Context(&context);
        let transfer = instruction(&format!("ADD {server}/dir/name /x/"), "/");
        let digest = transfer.digest(&store, from).unwrap();
        let layer = transfer.layer(&store, from, None).unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(shown(&layer), ["755 x/", "600 x/name =content"]);
        assert_eq!(layer.entries().unwrap().last().unwrap().unwrap().mtime.secs, 784_111_777);

        // What its digest says is asked of nobody before it is needed.
        let sum = Digest::of(b"content");
        let transfer = instruction(&format!("ADD --checksum={sum} {server}/dir/name /x/"), "/");
        assert_eq!(transfer.digest(&store, from).unwrap(), digest);
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert_eq!(transfer.layer(&store, from, None).unwrap().digest(), layer.digest());

        let other = Digest::of(b"other");
        let transfer = instruction(&format!("ADD --checksum={other} {server}/name /x/"), "/");
        assert_eq!(transfer.layer(&store, from, None).unwrap_err().kind(), ErrorKind::Mismatch);
        let transfer = instruction(&format!("ADD {server}/missing /x/"), "/");
        assert_eq!(transfer.digest(&store, from).unwrap_err().kind(), ErrorKind::NotFound);
        let transfer = instruction("ADD http://example.com/x /x/", "/");
        let error = transfer.digest(&store, from).unwrap_err();
        assert!(
            error.kind() == ErrorKind::InvalidInput && error.remedy().unwrap().contains("--checksum"),
            "{error}"
        );
    }
}
