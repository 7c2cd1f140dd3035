//! AppArmor's word on user namespaces, as it comes to an ordinary user's program: refused at once, or granted without any right
//! in it, by a profile or by Ubuntu's rule for programs that have none. Each has its own words, and the remedies help.
//!
//! The program of an ordinary user is this test program again, in a directory of its own: profiles go by path.
#![forbid(unsafe_code)]

mod common;

use common::*;
use coracle::{Container, ErrorKind, Feature, Host, Image, Store};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// What the program is to find: `runs`, or words of the reason.
const EXPECTED: &str = "CORACLE_TEST_EXPECTED";

/// Everything but `userns` and `capability`.
const OTHERS: &str =
    "file, network, unix, signal, ptrace, mount, remount, umount, pivot_root, mqueue, io_uring, dbus,";

/// Whether this is the ordinary user's program; if so it has found what it was to find.
fn is_the_program() -> bool {
    let Some(expected) = std::env::var_os(EXPECTED) else { return false };
    let expected = expected.to_str().unwrap();
    assert!(!is_root());
    let host = Host::probe();
    let ability = host.get(Feature::UserNamespace).unwrap();
    println!("{ability}");
    if expected == "runs" {
        assert!(ability.is_available(), "{ability}");
        assert_eq!(say(&sh(&common::host(), "echo $(id -u) $(hostname)").hostname("inside")), "0 inside");
        return true;
    }
    let missing = ability.missing().unwrap_or_else(|| panic!("{ability}"));
    assert!(missing.reason().contains(expected), "{ability}");
    assert!(missing.remedy().contains("userns,"), "{ability}");
    // What follows from it says so too.
    let others = [Feature::PidNamespace, Feature::Overlay, Feature::MountNamespace];
    for other in others.map(|feature| host.get(feature).unwrap()) {
        assert!(other.missing().is_some_and(|other| other.remedy() == missing.remedy()), "{other}");
    }
    let error = Image::host(&Store::temp().unwrap())
        .and_then(|image| Container::builder(&image).command(["true"]).run())
        .expect_err("there is no container without a user namespace");
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert_eq!(error.missing(), Some(missing), "{error}");
    let said = error.to_string();
    assert!(said.contains(missing.reason()) && said.contains(missing.remedy()), "{said}");
    true
}

/// The program of an ordinary user, one who may use sub-ids.
struct Program {
    dir: tempfile::TempDir,
    path: PathBuf,
    test: &'static str,
    user: [String; 4],
    home: PathBuf,
}

impl Program {
    fn new(test: &'static str) -> Self {
        let listed = fs::read_to_string("/etc/subuid").unwrap();
        let name = listed.split(':').next().filter(|name| !name.is_empty()).expect("a user in /etc/subuid");
        let passwd = fs::read_to_string("/etc/passwd").unwrap();
        let mut users = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let user = users.find(|fields| fields[0] == name).expect("the user is in /etc/passwd");
        let ids = [user[2], user[3]];
        let flags =
            ["setpriv", &format!("--reuid={}", ids[0]), &format!("--regid={}", ids[1]), "--clear-groups"];
        let user = flags.map(str::to_owned);
        let (dir, path) = own_copy();
        let home = dir.path().join("home");
        fs::create_dir(&home).unwrap();
        std::os::unix::fs::chown(&home, ids[0].parse().ok(), ids[1].parse().ok()).unwrap();
        Self { dir, path, test, user, home }
    }

    /// Runs it, to find `what`.
    fn finds(&self, what: &str) {
        let user: Vec<&str> = self.user.iter().map(String::as_str).collect();
        again_from(&self.path, self.test, &user, &[(EXPECTED, Path::new(what))]);
    }

    /// What `coracle info` says to the same user under the rule.
    fn is_told_by_the_command_line(&self) {
        let _rule = Setting::set(RULE, "1");
        let built = std::env::current_exe().unwrap();
        let built = built.parent().unwrap().parent().unwrap().join("examples/coracle");
        let program = self.dir.path().join("coracle");
        peer("cp", [built.as_os_str(), program.as_os_str()]);
        let home = format!("HOME={}", self.home.display());
        let env = ["env", "-u", "XDG_DATA_HOME", &home, program.to_str().unwrap(), "info"];
        let said = peer("setpriv", self.user[1..].iter().map(String::as_str).chain(env));
        let line = said.lines().find(|line| line.starts_with("no   user namespaces"));
        let line = line.unwrap_or_else(|| panic!("{said}"));
        assert!(line.contains("restrict_unprivileged_userns=1") && line.contains("{ userns, }"), "{line}");
    }

    /// A profile for it, with these flags and rules.
    fn profile(&self, flags: &str, rules: &str) -> Profile {
        let text = format!("profile {} {} flags=({flags}) {{ {rules} }}\n", self.name(), self.path.display());
        let file = self.dir.path().join("profile");
        fs::write(&file, text).unwrap();
        let profile = Profile(file);
        profile.parser("--replace");
        profile
    }

    fn name(&self) -> String {
        format!("coracle-test-{}", self.dir.path().file_name().unwrap().to_string_lossy().replace('.', ""))
    }
}

/// A profile that is loaded, until it is dropped.
struct Profile(PathBuf);

impl Profile {
    fn parser(&self, what: &str) {
        peer("apparmor_parser", ["--skip-cache".as_ref(), what.as_ref(), self.0.as_os_str()]);
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("--remove");
    }
}

/// A file of the kernel's that is as it was when this is dropped.
struct Setting(&'static str, String);

impl Setting {
    fn set(path: &'static str, value: &str) -> Self {
        let was = fs::read_to_string(path).unwrap_or_else(|error| panic!("{path}: {error}"));
        fs::write(path, value).unwrap();
        Self(path, was)
    }
}

impl Drop for Setting {
    fn drop(&mut self) {
        fs::write(self.0, self.1.trim()).unwrap();
    }
}

/// There is one rule for the machine.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
#[ignore = "needs root and AppArmor's rules on user namespaces (Linux 6.7, its parser 4): loads profiles"]
fn a_profile_that_refuses_user_namespaces() {
    if is_the_program() {
        return;
    }
    let _alone = ALONE.lock();
    let program = Program::new("a_profile_that_refuses_user_namespaces");
    program.finds("runs");
    for rules in [format!("{OTHERS} capability,"), format!("{OTHERS} userns,")] {
        let _profile = program.profile("attach_disconnected", &rules);
        program.finds("the AppArmor profile of this program");
    }
    // As the remedy has it.
    let _profile = program.profile("attach_disconnected", &format!("{OTHERS} userns, capability,"));
    program.finds("runs");
}

const RULE: &str = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns";
/// Of the model that .ci/vm loads, .ci/ubuntu_userns.c.
const REFUSE: &str = "/sys/module/ubuntu_userns/parameters/refuse";

/// Under the rule, and with each of the two remedies as they are said.
fn the_rule_and_its_remedies(program: &Program) {
    let words = "kernel.apparmor_restrict_unprivileged_userns=1";
    let _rule = Setting::set(RULE, "1");
    program.finds(words);
    {
        let _profile = program.profile("unconfined", "userns,");
        program.finds("runs");
    }
    let _rule = Setting::set(RULE, "0");
    program.finds("runs");
}

/// Ubuntu 24.04: what has no profile gets a namespace, and no capability in it.
#[test]
#[ignore = "needs root and Ubuntu's kernel.apparmor_restrict_unprivileged_userns: sets it, and loads profiles"]
fn ubuntus_rule_for_programs_without_a_profile() {
    if !is_the_program() {
        let _alone = ALONE.lock();
        let program = Program::new("ubuntus_rule_for_programs_without_a_profile");
        the_rule_and_its_remedies(&program);
        program.is_told_by_the_command_line();
        // It is not the rule that confines this one.
        let _rule = Setting::set(RULE, "1");
        let _profile = program.profile("attach_disconnected", &format!("{OTHERS} capability,"));
        program.finds("the AppArmor profile of this program");
    }
}

/// Before 24.04, and where its profile `unprivileged_userns` is not loaded.
#[test]
#[ignore = "needs root and a model of Ubuntu's rule, .ci/ubuntu_userns.c: sets it, and loads profiles"]
fn ubuntus_rule_where_it_refuses_at_once() {
    if !is_the_program() {
        let _alone = ALONE.lock();
        let _refuse = Setting::set(REFUSE, "Y");
        the_rule_and_its_remedies(&Program::new("ubuntus_rule_where_it_refuses_at_once"));
    }
}
