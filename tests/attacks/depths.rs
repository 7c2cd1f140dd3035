//! Containers that make trees deeper than any path is long, and links that lead there.
use super::*;

/// The next start looks for the user where the links lead.
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn the_accounts_are_too_deep_to_be_found() {
    let store = coracle::Store::temp().unwrap();
    let image = super::images::image(&store, serde_json::json!({}));
    // Each way begins where the one before has ended, which `..` of the last one needs again.
    let script = "d=$(/bin/busybox printf 'a/%.0s' $(/bin/busybox seq 600)); way=
        for n in 1 2 3 4 5 6; do
            /bin/busybox mkdir -p $way/$d && /bin/busybox ln -s $way/$d /way$n && way=/way$n || exit
        done
        /bin/busybox rm /etc/passwd && /bin/busybox ln -s /way6/../passwd /etc/passwd
        echo root:x:0:0::/:/bin/sh >/way6/../passwd";
    let words = ["/bin/busybox", "sh", "-c", "[ -e /way1 ] || eval \"$SCRIPT\""];
    let container = Container::builder(&image).command(words).env("SCRIPT", script).start().unwrap();
    assert!(container.wait().unwrap().success());
    container.start().unwrap();
    assert!(container.wait().unwrap().success());
    container.remove().unwrap();
}
