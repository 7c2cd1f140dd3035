//! The table of `docker cp`'s documentation, row by row, in both directions and for containers in all states. `peers` asks docker.

use super::*;
use coracle::ErrorKind::{self, AlreadyExists, Io, NotFound};
use std::os::unix::fs::symlink;

/// What is copied from.
pub fn source(dir: &Path) {
    fs::write(dir.join("f"), "new").unwrap();
    fs::create_dir_all(dir.join("d/s")).unwrap();
    fs::write(dir.join("d/a"), "a").unwrap();
    fs::write(dir.join("d/s/b"), "b").unwrap();
    symlink("a", dir.join("d/l")).unwrap();
    symlink("f", dir.join("lf")).unwrap();
    symlink("d", dir.join("ld")).unwrap();
}

/// Where it goes.
pub fn dest(dir: &Path) {
    fs::write(dir.join("file"), "old").unwrap();
    fs::create_dir(dir.join("dir")).unwrap();
    fs::write(dir.join("dir/kept"), "kept").unwrap();
    symlink("file", dir.join("lfile")).unwrap();
    symlink("dir", dir.join("ldir")).unwrap();
    symlink("none", dir.join("dangling")).unwrap();
    symlink("turn", dir.join("turn")).unwrap();
}

pub struct Row {
    pub from: &'static str,
    pub follow: bool,
    pub to: &'static str,
    /// What is there after it and was not before, or the error.
    pub becomes: Result<&'static [&'static str], ErrorKind>,
}

const fn row(
    from: &'static str,
    to: &'static str,
    becomes: Result<&'static [&'static str], ErrorKind>,
) -> Row {
    Row { from, follow: false, to, becomes }
}

const fn followed(
    from: &'static str,
    to: &'static str,
    becomes: Result<&'static [&'static str], ErrorKind>,
) -> Row {
    Row { from, follow: true, to, becomes }
}

pub const ROWS: &[Row] = &[
    // A file.
    row("f", "new", Ok(&["new=new"])),
    row("f", "new/", Err(NotFound)),
    row("f", "new/.", Err(NotFound)),
    row("f", "file", Ok(&["file=new"])),
    row("f", "file/", Err(Io)),
    row("f", "dir", Ok(&["dir/f=new"])),
    row("f", "dir/", Ok(&["dir/f=new"])),
    row("f", "dir/.", Ok(&["dir/f=new"])),
    row("f", "none/new", Err(NotFound)),
    row("f", "file/new", Err(Io)),
    row("f/", "new", Err(Io)),
    row("f/.", "new", Err(Io)),
    row("missing", "new", Err(NotFound)),
    // A directory.
    row("d", "new", Ok(&["new/", "new/a=a", "new/l->a", "new/s/", "new/s/b=b"])),
    row("d", "new/", Ok(&["new/", "new/a=a", "new/l->a", "new/s/", "new/s/b=b"])),
    row("d", "file", Err(AlreadyExists)),
    row("d", "dir", Ok(&["dir/d/", "dir/d/a=a", "dir/d/l->a", "dir/d/s/", "dir/d/s/b=b"])),
    row("d/", "dir", Ok(&["dir/d/", "dir/d/a=a", "dir/d/l->a", "dir/d/s/", "dir/d/s/b=b"])),
    row("d", "dir/", Ok(&["dir/d/", "dir/d/a=a", "dir/d/l->a", "dir/d/s/", "dir/d/s/b=b"])),
    row("d", "none/new", Err(NotFound)),
    // Its content.
    row("d/.", "dir", Ok(&["dir/a=a", "dir/l->a", "dir/s/", "dir/s/b=b"])),
    row("d/.", "new", Ok(&["new/", "new/a=a", "new/l->a", "new/s/", "new/s/b=b"])),
    row("d/.", "file", Err(AlreadyExists)),
    row("d/s/..", "dir", Ok(&["dir/d/", "dir/d/a=a", "dir/d/l->a", "dir/d/s/", "dir/d/s/b=b"])),
    // A link as the source.
    row("lf", "new", Ok(&["new->f"])),
    row("lf", "file", Ok(&["file->f"])),
    row("lf", "dir", Ok(&["dir/lf->f"])),
    followed("lf", "new", Ok(&["new=new"])),
    followed("lf", "dir", Ok(&["dir/lf=new"])),
    row("ld", "new", Ok(&["new->d"])),
    row("ld", "dir", Ok(&["dir/ld->d"])),
    row("ld/", "dir", Ok(&["dir/ld/", "dir/ld/a=a", "dir/ld/l->a", "dir/ld/s/", "dir/ld/s/b=b"])),
    row("ld/.", "dir", Ok(&["dir/a=a", "dir/l->a", "dir/s/", "dir/s/b=b"])),
    followed("ld", "dir", Ok(&["dir/ld/", "dir/ld/a=a", "dir/ld/l->a", "dir/ld/s/", "dir/ld/s/b=b"])),
    row("ld/a", "new", Ok(&["new=a"])),
    // A link as the destination leads on.
    row("f", "lfile", Ok(&["file=new"])),
    row("f", "ldir", Ok(&["dir/f=new"])),
    row("f", "ldir/", Ok(&["dir/f=new"])),
    row("f", "ldir/new", Ok(&["dir/new=new"])),
    row("f", "dangling", Ok(&["none=new"])),
    row("f", "dangling/", Err(NotFound)),
    row("f", "turn", Err(Io)),
    row("d/.", "ldir", Ok(&["dir/a=a", "dir/l->a", "dir/s/", "dir/s/b=b"])),
    row("d", "lfile", Err(AlreadyExists)),
    row("d", "dangling", Ok(&["none/", "none/a=a", "none/l->a", "none/s/", "none/s/b=b"])),
];

pub fn tree(fill: fn(&Path)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path());
    dir
}

impl Row {
    pub fn shown(&self) -> String {
        format!("{} to {}{}", self.from, self.to, if self.follow { " (followed)" } else { "" })
    }
}

/// What is there now and was not before.
pub fn new<'a>(before: &[String], after: &'a [String]) -> Vec<&'a str> {
    after.iter().filter(|line| !before.contains(line)).map(String::as_str).collect()
}

/// What is new, and what is gone because of it.
#[track_caller]
fn check(row: &Row, result: coracle::Result<coracle::Copied>, before: &[String], after: &[String]) {
    let (shown, new) = (row.shown(), new(before, after));
    match row.becomes {
        Ok(expected) => {
            let copied = result.unwrap_or_else(|error| panic!("{shown}: {error}"));
            assert_eq!(new, expected, "{shown}");
            assert!(copied.left_out().is_empty(), "{shown}: {copied:?}");
            let name = |line: &str| line.split(['=', '-']).next().unwrap().to_owned();
            let gone: Vec<_> = before.iter().filter(|line| !after.contains(line)).collect();
            let replaced = |line: &&String| new.iter().any(|new| name(new) == name(line));
            assert!(gone.iter().all(replaced), "{shown}: {gone:?} is gone");
        }
        Err(kind) => {
            let error = result.expect_err(&shown);
            assert_eq!(error.kind(), kind, "{shown}: {error}");
            assert_eq!(after, before, "{shown}: {error}");
        }
    }
}

#[test]
fn into_a_container() {
    let (from, to) = (tree(source), tree(dest));
    everywhere(|container| {
        container.copy_in(to.path(), "/before").unwrap();
        let before = inside(container, "/before");
        assert_eq!(before, outside(to.path()));
        for (i, row) in ROWS.iter().enumerate() {
            let dir = format!("/w{i}");
            container.copy_in(to.path(), &dir).unwrap();
            let copying = container.copying().follow(row.follow);
            let from = format!("{}/{}", from.path().display(), row.from);
            let result = copying.copy_in(from, format!("{dir}/{}", row.to));
            check(row, result, &before, &inside(container, &dir));
        }
    });
}

#[test]
fn out_of_a_container() {
    let from = tree(source);
    everywhere(|container| {
        container.copy_in(from.path(), "/from").unwrap();
        assert_eq!(inside(container, "from"), outside(from.path()));
        for row in ROWS {
            let to = tree(dest);
            let before = outside(to.path());
            let copying = container.copying().follow(row.follow);
            let result = copying
                .copy_out(format!("/from/{}", row.from), format!("{}/{}", to.path().display(), row.to));
            check(row, result, &before, &outside(to.path()));
        }
    });
}

#[test]
fn nothing_below_takes_the_place_of_another_kind() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir_all(at("one/x")).unwrap();
    fs::create_dir_all(at("other")).unwrap();
    fs::write(at("one/x/in"), "in").unwrap();
    fs::write(at("other/x"), "file").unwrap();
    symlink("/etc", at("link")).unwrap();
    everywhere(|container| {
        container.copy_in(at("one"), "/k1").unwrap();
        container.copy_in(at("other"), "/k2").unwrap();
        for (from, to) in [("other/.", "/k1"), ("one/.", "/k2")] {
            let error = container.copy_in(at(from), to).unwrap_err();
            assert_eq!(error.kind(), AlreadyExists, "{error}");
        }
        assert_eq!(inside(container, "/k1"), ["x/", "x/in=in"]);
        assert_eq!(inside(container, "/k2"), ["x=file"]);
        // Nor is a link there taken for the directory that it leads to.
        container.copy_in(at("link"), "/k2/y").unwrap();
        container.copy_in(at("one/x"), "/k3").unwrap();
        fs::create_dir(at("tree")).unwrap();
        fs::create_dir(at("tree/y")).unwrap();
        let error = container.copy_in(at("tree/."), "/k2").unwrap_err();
        assert_eq!(error.kind(), AlreadyExists, "{error}");
        fs::remove_dir_all(at("tree")).unwrap();
        let error = container.copy_out("/k1/.", at("other")).unwrap_err();
        assert_eq!(error.kind(), AlreadyExists, "{error}");
        let error = container.copy_out("/k2/.", at("one")).unwrap_err();
        assert_eq!(error.kind(), AlreadyExists, "{error}");
    });
}

#[test]
fn links_lead_where_they_lead_for_the_container() {
    let dir = tempfile::tempdir().unwrap();
    let image = host();
    let container = Container::builder(&empty(image.store())).command(["/none"]).create().unwrap();
    assert_eq!(read(&container, "/way/motd"), "ahoy");
    assert_eq!(read(&container, "../../../etc/motd"), "ahoy");
    fs::write(dir.path().join("f"), "f").unwrap();
    container.copy_in(dir.path().join("f"), "/way").unwrap();
    assert_eq!(read(&container, "/etc/f"), "f");
    // An absolute link of the container's is none of this machine's.
    symlink("/etc/motd", dir.path().join("l")).unwrap();
    container.copy_in(dir.path().join("l"), "/l").unwrap();
    container.copying().follow(true).copy_out("/l", dir.path().join("out")).unwrap();
    assert_eq!(fs::read_to_string(dir.path().join("out")).unwrap(), "ahoy");
    // As the source here, it is.
    symlink("/etc/hostname", dir.path().join("h")).unwrap();
    container.copying().follow(true).copy_in(dir.path().join("h"), "/h").unwrap();
    assert_eq!(read(&container, "/h"), fs::read_to_string("/etc/hostname").unwrap());
}

#[test]
fn what_is_no_file_is_no_destination() {
    let container = Container::builder(&empty(host().store())).command(["/none"]).create().unwrap();
    let error = container.copy_out("/etc/motd", "/dev/null").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    let error = container.copy_in("/dev/null", "/null").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput, "{error}");
    for (from, to) in [("", "/x"), ("/", ""), ("/etc/a\0b", "/x"), ("/etc", "/x\0")] {
        assert_eq!(container.copy_in(from, to).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert_eq!(container.copy_out(from, to).unwrap_err().kind(), ErrorKind::InvalidInput);
    }
}
