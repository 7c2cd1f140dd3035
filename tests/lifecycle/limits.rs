//! Limits of containers on devices.
use super::*;

/// A second wall: the kernel asks the group's list as well.
#[test]
#[ignore = "needs root: a control group for devices"]
fn a_list_of_devices_has_the_containers_own_and_those_given() {
    let script = "head -c 4 /dev/zero | wc -c; head -c 4 /dev/urandom | wc -c; : >/dev/null; : </dev/kmsg && echo kmsg";
    let none = coracle::Limits::new().devices([]);
    let with = |limits: coracle::Limits| {
        sh(&host(), script).device(coracle::Device::new("/dev/kmsg")).limits(limits)
    };
    let out = with(none.clone()).run().unwrap();
    assert!(out.report.is_complete(), "{:?}", out.report);
    let entry = out.report.get("devices").unwrap();
    assert!(entry.asked().contains("c 1:3 rw") && entry.asked().contains("c 1:11 rw"), "{entry}");
    assert!(out.stdout_text().starts_with("4\n4\n"), "{}", out.stdout_text());
    let terminal = sh(&host(), "test -t 0 && : </dev/tty").tty(true).limits(none);
    assert!(terminal.start().unwrap().wait().unwrap().success(), "its terminal is one of them");
}
