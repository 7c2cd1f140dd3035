//! The settings of an image's containers, changed as docker changes them (image-spec, `config.md`, and docker's fields
//! beside it).
#![forbid(unsafe_code)]

use crate::error::{Error, ErrorKind, Result};
use crate::manifest::Healthcheck;
use crate::signal::Signal;
use serde_json::{Map, Value, json};

/// The whole configuration of an image, to be changed.
pub(crate) struct Settings<'a>(&'a mut Value);

fn refused(what: String) -> Error {
    Error::new(ErrorKind::InvalidInput, what)
}

/// No text of a configuration has a NUL: no argument, variable or path could have it.
fn checked<'t>(what: &str, text: &'t str) -> Result<&'t str> {
    match text.contains('\0') {
        true => Err(refused(format!("{what}: a NUL byte in {text:?}"))),
        false => Ok(text),
    }
}

fn not_empty<'t>(what: &str, text: &'t str) -> Result<&'t str> {
    match text.is_empty() {
        true => Err(refused(format!("{what}: nothing"))),
        false => checked(what, text),
    }
}

fn is_of(entry: &Value, name: &str) -> bool {
    let rest = entry.as_str().and_then(|entry| entry.strip_prefix(name));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
}

impl<'a> Settings<'a> {
    pub(crate) fn of(config: &'a mut Value) -> Self {
        if !config["config"].is_object() {
            config["config"] = json!({});
        }
        Self(config)
    }

    fn set(&mut self, key: &str, value: Value) {
        self.0["config"][key] = value;
    }

    fn remove(&mut self, key: &str) {
        if let Some(config) = self.0["config"].as_object_mut() {
            config.remove(key);
        }
    }

    fn list(&mut self, key: &str) -> Vec<Value> {
        match self.0["config"][key].take() {
            Value::Array(list) => list,
            _ => Vec::new(),
        }
    }

    /// Sets a list, or nothing where it is empty.
    fn set_list(&mut self, key: &str, list: Vec<Value>) {
        match list.is_empty() {
            true => self.remove(key),
            false => self.set(key, Value::Array(list)),
        }
    }

    fn map(&mut self, key: &str, change: impl FnOnce(&mut Map<String, Value>)) {
        let mut map = match self.0["config"][key].take() {
            Value::Object(map) => map,
            _ => Map::new(),
        };
        change(&mut map);
        match map.is_empty() {
            true => self.remove(key),
            false => self.set(key, Value::Object(map)),
        }
    }

    fn words(&mut self, what: &str, key: &str, words: &[String]) -> Result<()> {
        let words = words.iter().map(|word| checked(what, word).map(|word| json!(word)));
        let words = words.collect::<Result<Vec<_>>>()?;
        self.set_list(key, words);
        Ok(())
    }

    /// One that is there keeps its place.
    pub(crate) fn env(&mut self, name: &str, value: &str) -> Result<()> {
        not_empty("ENV", name)?;
        if name.contains('=') {
            return Err(refused(format!("ENV: a '=' in the name {name:?}")));
        }
        let entry = json!(format!("{name}={}", checked("ENV", value)?));
        let mut list = self.list("Env");
        match list.iter_mut().find(|entry| is_of(entry, name)) {
            Some(there) => *there = entry,
            None => list.push(entry),
        }
        self.set_list("Env", list);
        Ok(())
    }

    pub(crate) fn no_env(&mut self, name: &str) {
        let mut list = self.list("Env");
        list.retain(|entry| !is_of(entry, name));
        self.set_list("Env", list);
    }

    pub(crate) fn label(&mut self, name: &str, value: &str) -> Result<()> {
        let (name, value) = (not_empty("LABEL", name)?, checked("LABEL", value)?);
        self.map("Labels", |labels| drop(labels.insert(name.to_owned(), json!(value))));
        Ok(())
    }

    pub(crate) fn no_label(&mut self, name: &str) {
        self.map("Labels", |labels| drop(labels.remove(name)));
    }

    /// Nothing but ENTRYPOINT itself: what becomes of CMD is said by who knows where that is from.
    pub(crate) fn entrypoint(&mut self, words: &[String]) -> Result<()> {
        self.words("ENTRYPOINT", "Entrypoint", words)
    }

    pub(crate) fn cmd(&mut self, words: &[String]) -> Result<()> {
        self.words("CMD", "Cmd", words)
    }

    pub(crate) fn user(&mut self, user: &str) -> Result<()> {
        let user = checked("USER", user)?;
        self.set("User", json!(user));
        Ok(())
    }

    /// What is relative begins where it was before.
    pub(crate) fn working_dir(&mut self, path: &str) -> Result<()> {
        let path = checked("WORKDIR", path)?;
        let before = self.0["config"]["WorkingDir"].as_str().unwrap_or_default();
        let joined = joined(before, path);
        self.set("WorkingDir", json!(joined));
        Ok(())
    }

    pub(crate) fn volume(&mut self, path: &str) -> Result<()> {
        let path = not_empty("VOLUME", path)?;
        self.map("Volumes", |volumes| drop(volumes.insert(path.to_owned(), json!({}))));
        Ok(())
    }

    pub(crate) fn no_volume(&mut self, path: &str) {
        self.map("Volumes", |volumes| drop(volumes.remove(path)));
    }

    /// `80`, `80/udp`, `8000-8010`, and what docker takes for a published one: `8080:80`.
    pub(crate) fn exposed_port(&mut self, text: &str) -> Result<()> {
        let ports = ports(text)?;
        self.map("ExposedPorts", |exposed| exposed.extend(ports.map(|port| (port, json!({})))));
        Ok(())
    }

    pub(crate) fn no_exposed_port(&mut self, text: &str) -> Result<()> {
        let ports = ports(text)?;
        self.map("ExposedPorts", |exposed| ports.for_each(|port| drop(exposed.remove(&port))));
        Ok(())
    }

    pub(crate) fn stop_signal(&mut self, text: &str) -> Result<()> {
        text.parse::<Signal>().map_err(|error| error.during("STOPSIGNAL"))?;
        self.set("StopSignal", json!(text));
        Ok(())
    }

    pub(crate) fn healthcheck(&mut self, check: &Healthcheck) -> Result<()> {
        let known = match check.test.first().map(String::as_str) {
            None | Some("CMD" | "CMD-SHELL") => true,
            Some("NONE") => check.test.len() == 1,
            Some(_) => false,
        };
        if !known {
            let error = refused(format!("HEALTHCHECK: the test {:?}", check.test));
            return Err(error.with_remedy("it begins with CMD or CMD-SHELL, or is NONE alone"));
        }
        check.test.iter().try_for_each(|word| checked("HEALTHCHECK", word).map(drop))?;
        let mut health = Map::new();
        if !check.test.is_empty() {
            health.insert("Test".to_owned(), json!(check.test));
        }
        let numbers = [
            ("Interval", check.interval),
            ("Timeout", check.timeout),
            ("StartPeriod", check.start_period),
            ("StartInterval", check.start_interval),
            ("Retries", check.retries),
        ];
        for (key, number) in numbers {
            match number {
                0 => {}
                1.. => drop(health.insert(key.to_owned(), json!(number))),
                _ => return Err(refused(format!("HEALTHCHECK: {key} is {number}"))),
            }
        }
        self.set("Healthcheck", Value::Object(health));
        Ok(())
    }

    pub(crate) fn shell(&mut self, words: &[String]) -> Result<()> {
        match words.is_empty() {
            true => Err(refused("SHELL: nothing".to_owned())),
            false => self.words("SHELL", "Shell", words),
        }
    }

    /// What the shell form of an instruction begins with, where the image says so.
    #[cfg(feature = "build")]
    pub(crate) fn shell_words(&self) -> Option<Vec<String>> {
        let words = self.0["config"]["Shell"].as_array()?;
        let words: Vec<_> = words.iter().filter_map(|word| word.as_str().map(str::to_owned)).collect();
        (!words.is_empty()).then_some(words)
    }

    #[cfg(feature = "build")]
    pub(crate) fn on_build(&mut self, instruction: &str) {
        let mut list = self.list("OnBuild");
        list.push(json!(instruction));
        self.set_list("OnBuild", list);
    }

    pub(crate) fn author(&mut self, author: &str) -> Result<()> {
        self.0["author"] = json!(checked("author", author)?);
        Ok(())
    }
}

/// `path` as seen from `before`, without `.`, `..` and slashes too many; links are not known here.
fn joined(before: &str, path: &str) -> String {
    let before = if path.starts_with('/') { "" } else { before };
    let mut parts: Vec<&str> = Vec::new();
    for part in before.split('/').chain(path.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Each port of `[[ADDRESS:]PORTS:]PORT[-PORT][/PROTOCOL]` as configurations have it, `80/tcp`.
fn ports(text: &str) -> Result<impl Iterator<Item = String> + use<>> {
    let bad = |what: &str| {
        let error = refused(format!("EXPOSE: {what} in {text:?}"));
        error.with_remedy("as in 80, 53/udp or 8000-8010/tcp")
    };
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        _ => return Err(bad("a protocol that is none of tcp, udp and sctp")),
    };
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| match text.bytes().all(|byte| byte.is_ascii_digit()) {
            true => text.parse::<u16>().map_err(|_| bad("no port")),
            false => Err(bad("no port")),
        };
        match (number(first)?, number(last)?) {
            (first, last) if first <= last => Ok(first..=last),
            _ => Err(bad("a range that ends before it begins")),
        }
    };
    // Where it is published is not for an image to say: docker reads it and leaves it out.
    let (published, exposed) = match ports.rsplit_once(':') {
        Some((published, exposed)) => (published.rsplit(':').next(), exposed),
        None => (None, ports),
    };
    let exposed = range(exposed)?;
    if let Some(published) = published.filter(|text| !text.is_empty()) {
        let published = range(published)?;
        if exposed.len() > 1 && published.len() != exposed.len() {
            return Err(bad("ranges of different lengths"));
        }
    }
    Ok(exposed.map(move |port| format!("{port}/{protocol}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(before: Value, change: impl FnOnce(&mut Settings<'_>) -> Result<()>) -> Value {
        let mut config = json!({ "config": before });
        change(&mut Settings::of(&mut config)).unwrap();
        config["config"].take()
    }

    #[test]
    fn a_variable_that_is_there_keeps_its_place() {
        let before = json!({ "Env": ["A=1", "AB=2", "A"] });
        assert_eq!(
            after(before.clone(), |all| all.env("A", "x=y")),
            json!({ "Env": ["A=x=y", "AB=2", "A"] })
        );
        assert_eq!(
            after(before.clone(), |all| all.env("B", "")),
            json!({ "Env": ["A=1", "AB=2", "A", "B="] })
        );
        let without = |all: &mut Settings<'_>| {
            all.no_env("A");
            Ok(())
        };
        assert_eq!(after(before, without), json!({ "Env": ["AB=2"] }));
        assert_eq!(after(json!({ "Env": ["A=1"] }), without), json!({}));
        // As Go writes it.
        assert_eq!(after(json!({ "Env": null }), |all| all.env("A", "1")), json!({ "Env": ["A=1"] }));
        let mut config = json!({});
        for (name, value) in [("", "x"), ("A=B", "x"), ("A\0", "x"), ("A", "\0")] {
            let error = Settings::of(&mut config).env(name, value).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        assert_eq!(config, json!({ "config": {} }));
    }

    #[test]
    fn a_working_directory_is_joined_and_has_no_dots() {
        for (before, path, expected) in [
            ("", "/a/b/", "/a/b"),
            ("/a", "b", "/a/b"),
            ("", "b", "/b"),
            ("/a/b", "../c/./d//e", "/a/c/d/e"),
            ("/a", "../../..", "/"),
            ("/a", "/", "/"),
            ("/a", "", "/a"),
            ("", "", "/"),
            ("/a", "/../x", "/x"),
        ] {
            let after = after(json!({ "WorkingDir": before }), |all| all.working_dir(path));
            assert_eq!(after, json!({ "WorkingDir": expected }), "{before:?} {path:?}");
        }
    }

    #[test]
    fn ports_are_those_that_docker_exposes() {
        for (text, expected) in [
            ("80", &["80/tcp"][..]),
            ("53/UDP", &["53/udp"]),
            ("80/", &["80/tcp"]),
            ("7000-7002/sctp", &["7000/sctp", "7001/sctp", "7002/sctp"]),
            ("8080:80", &["80/tcp"]),
            ("127.0.0.1:8080:80/udp", &["80/udp"]),
            ("127.0.0.1::80", &["80/tcp"]),
            ("[::1]:1-2:3-4", &["3/tcp", "4/tcp"]),
            ("1-9:80", &["80/tcp"]),
        ] {
            let found: Vec<_> = ports(text).unwrap().collect();
            assert_eq!(found, expected, "{text}");
        }
        assert_eq!(ports("0-65535").unwrap().count(), 65536);
        for text in [
            "", "x", "80/icmp", "65536", "2-1", "-1", "+1", "1-", "1-2-3", "80:", "1-2:3-5", "x:80",
            "80/tcp/x",
        ] {
            assert_eq!(ports(text).map(drop).unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
    }

    #[test]
    fn a_healthcheck_has_what_is_not_the_default() {
        let check = Healthcheck {
            test: vec!["CMD-SHELL".into(), "true".into()],
            interval: 5,
            retries: 2,
            ..Healthcheck::default()
        };
        let expected =
            json!({ "Healthcheck": { "Test": ["CMD-SHELL", "true"], "Interval": 5, "Retries": 2 } });
        assert_eq!(after(json!({}), |all| all.healthcheck(&check)), expected);
        let mut config = json!({});
        for bad in [
            Healthcheck { test: vec!["true".into()], ..Healthcheck::default() },
            Healthcheck { test: vec!["NONE".into(), "x".into()], ..Healthcheck::default() },
            Healthcheck { interval: -1, ..Healthcheck::default() },
        ] {
            assert!(Settings::of(&mut config).healthcheck(&bad).is_err(), "{bad:?}");
        }
    }
}
