//! What keeps the users of a whole machine from namespaces, by its settings. They are everybody's, so this is for a
//! machine that is nobody's, and the only test of its program.

mod common;

use common::*;
use coracle::{ErrorKind, Feature, Host, Namespaces};
use std::fs;
use std::path::Path;

const SETTING: &str = "CORACLE_TEST_SETTING";
/// What emulated machines have and no other.
const EMULATED: &str = "/lane/host-release";
/// The file, what the reason has to say, and the remedy.
const SETTINGS: [[&str; 3]; 2] = [
    [
        "/proc/sys/kernel/unprivileged_userns_clone",
        "kernel.unprivileged_userns_clone=0",
        "sysctl -w kernel.unprivileged_userns_clone=1",
    ],
    [
        "/proc/sys/user/max_user_namespaces",
        "user.max_user_namespaces=0",
        "sysctl -w user.max_user_namespaces=",
    ],
];

/// A setting that is 0 until the test goes.
struct Zero(&'static str, String);

impl Zero {
    fn new(file: &'static str) -> Self {
        let before = fs::read_to_string(file).unwrap_or_else(|error| panic!("{file}: {error}"));
        assert_ne!(before.trim(), "0", "{file}");
        fs::write(file, "0").unwrap();
        Self(file, before)
    }
}

impl Drop for Zero {
    fn drop(&mut self) {
        fs::write(self.0, &self.1).unwrap();
    }
}

#[test]
#[ignore = "needs root of an emulated machine, as it changes settings of it: .ci/vm"]
fn ordinary_users_are_kept_from_user_namespaces() {
    let name = "ordinary_users_are_kept_from_user_namespaces";
    let user = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"];
    let Some(setting) = std::env::var_os(SETTING) else {
        // Only .ci/vm makes it. Whoever asks for every ignored test on another machine hears why not.
        assert!(
            Path::new(EMULATED).exists(),
            "this changes settings of the whole machine, and there is no {EMULATED}: run .ci/vm"
        );
        for [file, ..] in SETTINGS {
            let _zero = Zero::new(file);
            again(name, &user, &[(SETTING, Path::new(file))]);
        }
        // And as before they may.
        return again(name, &user, &[(SETTING, Path::new("none"))]);
    };
    let host = Host::probe();
    let ability = host.get(Feature::UserNamespace).unwrap();
    let Some([_, reason, remedy]) = SETTINGS.into_iter().find(|[file, ..]| setting == *file) else {
        assert!(ability.is_available(), "{ability}");
        return;
    };
    let why = ability.missing().unwrap_or_else(|| panic!("{host}"));
    assert!(why.reason().contains(reason) && why.remedy().contains(remedy), "{why}");
    let error = Namespaces::new().user().command(["true"]).status().unwrap_err();
    assert_eq!((error.kind(), error.missing()), (ErrorKind::Unsupported, Some(why)), "{error}");
    // A start says the same.
    let error = sh(&common::host(), "true").run().unwrap_err();
    assert_eq!((error.kind(), error.remedy()), (ErrorKind::Unsupported, Some(why.remedy())), "{error}");
}
