use coracle::{Container, Image, Store};
fn main() {
    let dir = tempfile::Builder::new().prefix("coracle-bench-").tempdir_in("/var/tmp").unwrap();
    let root = dir.path().join("rootfs");
    for n in ["bin", "proc", "sys", "dev", "etc", "tmp"] {
        std::fs::create_dir_all(root.join(n)).unwrap();
    }
    std::fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
    let tar = dir.path().join("r.tar");
    std::process::Command::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg(".").status().unwrap();
    let store = Store::open(dir.path().join("store")).unwrap();
    let image = Image::import(&store, &tar, "bench").unwrap();
    let b = Container::builder(&image).command(["/bin/busybox", "true"]);
    for i in 0..40 {
        let c = b.create().unwrap();
        if i == 39 {
            unsafe { std::env::set_var("CDUMP", "1") }
        }
        coracle::mark(1);
        c.start().unwrap();
        coracle::mark(6);
        c.wait().unwrap();
        coracle::mark(7);
    }
}
