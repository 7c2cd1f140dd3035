#![forbid(unsafe_code)]
use super::*;
use serde_json::json;

fn digest(text: &str) -> String {
    Digest::of(text.as_bytes()).to_string()
}

#[test]
fn unknown_fields_of_an_index_survive() {
    let text = json!({
        "schemaVersion": 2, "newField": {"a": [1]}, "annotations": {"x": "y"},
        "manifests": [{"mediaType": "m", "digest": digest("a"), "size": 1, "artifactType": "t", "data": "AA==",
            "platform": {"architecture": "amd64", "os": "linux", "os.features": ["f"]}}]
    });
    let index = Index::parse(text.to_string().as_bytes()).unwrap();
    assert!(index.manifests[0].platform.as_ref().unwrap().os == "linux");
    assert_eq!(serde_json::from_slice::<Value>(&index.encode().unwrap()).unwrap(), text);
}

#[test]
fn what_is_manifest_and_index_at_once_is_refused() {
    let descriptor = json!({"mediaType": "m", "digest": digest("a"), "size": 1});
    let manifest = json!({"schemaVersion": 2, "config": descriptor, "layers": [descriptor]});
    assert!(matches!(Document::parse(manifest.to_string().into()), Ok(Document::Manifest(_))));
    for (key, value) in [("manifests", json!([])), ("mediaType", json!(media::INDEX))] {
        let mut both = manifest.clone();
        both[key] = value;
        assert_eq!(Document::parse(both.to_string().into()).err().unwrap().kind(), ErrorKind::InvalidData);
    }
    let index = json!({"schemaVersion": 2, "mediaType": media::MANIFEST, "manifests": []});
    assert!(Document::parse(index.to_string().into()).is_err());
}

#[test]
fn bounds_and_versions() {
    let mut big = b"{}".to_vec();
    big.resize(DOCUMENT_MAX as usize + 1, b' ');
    assert_eq!(Manifest::parse(big.clone()).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(ImageConfig::parse(big).unwrap_err().kind(), ErrorKind::TooLarge);
    assert_eq!(Index::parse(br#"{"schemaVersion":1}"#).unwrap_err().kind(), ErrorKind::Unsupported);
    for bad in ["", "{", "[]", "null", r#"{"schemaVersion":2,"config":{},"layers":[]}"#] {
        assert_eq!(Manifest::parse(bad.into()).unwrap_err().kind(), ErrorKind::InvalidData, "{bad}");
    }
    let many = vec![digest("a"); 501];
    let config = json!({"rootfs": {"diff_ids": many}}).to_string();
    assert_eq!(ImageConfig::parse(config.into()).unwrap_err().kind(), ErrorKind::TooLarge);
}

#[test]
fn reads_dockers_configuration_and_keeps_what_it_does_not_know() {
    let text = json!({
        "architecture": "arm64", "variant": "v8", "os": "linux", "created": "2026-01-02T03:04:05Z",
        "docker_version": "x", "container_config": null,
        "config": {"User": "www:www", "Env": ["A=b=c"], "Entrypoint": null, "Cmd": ["sh"], "WorkingDir": "/srv",
            "Volumes": {"/data": {}}, "ExposedPorts": {"80/tcp": {}}, "Labels": null, "StopSignal": "SIGQUIT",
            "Healthcheck": {"Test": ["CMD", "x"], "Interval": 5, "Retries": 2}, "Shell": ["/bin/bash", "-c"],
            "OnBuild": ["RUN x"], "ArgsEscaped": true, "Odd": 1},
        "rootfs": {"type": "layers", "diff_ids": [digest("l")]},
        "history": [{"created_by": "x", "empty_layer": true, "extra": 1}]
    });
    let config = ImageConfig::parse(text.to_string().into()).unwrap();
    assert_eq!(
        (config.user(), config.working_dir(), config.stop_signal()),
        ("www:www", "/srv", Some("SIGQUIT"))
    );
    assert_eq!(config.volumes().collect::<Vec<_>>(), ["/data"]);
    assert_eq!(config.exposed_ports().collect::<Vec<_>>(), ["80/tcp"]);
    assert!(config.entrypoint().is_empty() && config.labels().is_empty());
    assert_eq!(config.healthcheck().unwrap().retries, 2);
    assert_eq!(config.shell().unwrap(), ["/bin/bash", "-c"]);
    assert_eq!((config.on_build(), config.args_escaped()), (&["RUN x".to_owned()][..], true));
    let change = |value: &mut Value| {
        value["config"]["Cmd"] = json!(["bash"]);
        Ok(())
    };
    let changed = config.edit(change).unwrap();
    assert_eq!(changed.cmd(), ["bash"]);
    let value: Value = serde_json::from_str(changed.json()).unwrap();
    assert_eq!((&value["docker_version"], &value["config"]["Odd"]), (&json!("x"), &json!(1)));
    assert_eq!(value["history"][0]["extra"], 1);
    assert!(ImageConfig::parse(r#"{"config":null,"rootfs":{"diff_ids":null}}"#.into()).is_ok());
}

#[test]
fn one_machine_has_many_names_and_is_written_by_one() {
    let host = Platform::host().to_string();
    for (text, written) in [
        ("linux/amd64", "linux/amd64"),
        ("Linux/ARM64/v8", "linux/arm64"),
        ("linux/arm64/v8.0", "linux/arm64"),
        ("linux/aarch64", "linux/arm64"),
        ("linux/aarch64/v8.2", "linux/arm64/v8.2"),
        ("linux/arm64/9", "linux/arm64/v9"),
        ("linux/x86_64", "linux/amd64"),
        ("linux/x86-64/v3", "linux/amd64/v3"),
        ("linux/amd64/v1", "linux/amd64"),
        ("linux/i386", "linux/386"),
        ("i686", "linux/386"),
        ("linux/arm", "linux/arm/v7"),
        ("linux/arm/7", "linux/arm/v7"),
        ("linux/arm/v7", "linux/arm/v7"),
        ("linux/arm/v6", "linux/arm/v6"),
        ("linux/armhf", "linux/arm/v7"),
        ("armel", "linux/arm/v6"),
        ("x86_64", "linux/amd64"),
        ("s390x", "linux/s390x"),
        ("macOS/arm64", "darwin/arm64"),
        // Of what nobody knows, each is itself.
        ("odd/thing/v1", "odd/thing/v1"),
        ("linux", &host),
    ] {
        let platform: Platform = text.parse().unwrap();
        assert_eq!(platform.to_string(), written, "{text}");
        assert_eq!(platform, written.parse().unwrap());
    }
    assert!("windows".parse::<Platform>().unwrap().to_string().starts_with("windows/"));
    for bad in ["", "linus", "linux/", "/amd64", "linux//v8", "linux/arm/", "linux/arm/v7/x", "linux/a b"] {
        assert_eq!(bad.parse::<Platform>().unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
    }
}

#[test]
fn an_index_may_say_a_machine_in_any_of_its_names() {
    let names = [
        ("amd64", None),
        ("arm", None),
        ("armel", None),
        ("aarch64", Some("v8")),
        ("i386", Some("x")),
        ("x86_64", Some("v3")),
    ];
    let describe = |(architecture, variant): &(&str, Option<&str>)| json!({"mediaType": "m", "digest": digest(architecture), "size": 1, "platform": {"architecture": architecture, "os": "Linux", "variant": variant}});
    let listed: Vec<_> = names.iter().map(describe).collect();
    let text = json!({"schemaVersion": 2, "manifests": listed}).to_string();
    let index = Index::parse(text.as_bytes()).unwrap();
    for (wanted, found) in [
        ("linux/arm64", "aarch64"),
        ("arm64/v8", "none"),
        ("linux/arm64/v8", "aarch64"),
        ("linux/386", "i386"),
        ("linux/x86_64", "amd64"),
        ("linux/amd64/v4", "x86_64"),
        ("linux/arm/v6", "armel"),
        ("linux/arm", "arm"),
        ("linux/s390x", "none"),
    ] {
        let chosen =
            index.choose(&wanted.parse().unwrap(), &Digest::of(b"")).map(|child| child.digest.to_string());
        assert_eq!(chosen.ok(), Some(digest(found)).filter(|_| found != "none"), "{wanted}");
    }
    // The words are the image's own.
    assert_eq!(index.manifests[3].platform.as_ref().unwrap().to_string(), "Linux/aarch64/v8");
}

#[test]
fn what_has_a_digest_of_another_algorithm_stays_and_is_passed_over() {
    let other = |algorithm: &str, platform: Value| json!({"mediaType": "m", "digest": format!("{algorithm}:abcdef"), "size": 7, "platform": platform, "new": [1]});
    let machine = |architecture: &str| json!({"architecture": architecture, "os": "linux"});
    let known = json!({"mediaType": "m", "digest": digest("a"), "size": 1, "platform": machine("amd64")});
    let all = json!([known, other("sha512", machine("amd64")), other("blake3", machine("arm64"))]);
    let text = json!({"schemaVersion": 2, "manifests": all});
    let index = Index::parse(text.to_string().as_bytes()).unwrap();
    assert_eq!(index.manifests.len(), 1);
    assert_eq!(serde_json::from_slice::<Value>(&index.encode().unwrap()).unwrap(), text);
    let choose = |wanted: &str| index.choose(&wanted.parse().unwrap(), &Digest::of(b""));
    assert_eq!(choose("linux/amd64").unwrap().digest.to_string(), digest("a"));
    let error = choose("linux/arm64").unwrap_err();
    assert!(error.kind() == ErrorKind::Unsupported && error.to_string().contains("blake3:"), "{error}");
    // What is no digest at all, or one that is broken, is an error as before.
    for bad in [json!("sha256:1"), json!("x"), json!(1), Value::Null] {
        let text = json!({"schemaVersion": 2, "manifests": [{"mediaType": "m", "digest": bad, "size": 1}]});
        let error = Index::parse(text.to_string().as_bytes()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData, "{text}");
    }
}

#[test]
fn null_is_what_go_takes_it_for() {
    let text = json!({
        "architecture": null, "os": null, "variant": null, "created": null, "history": [{"created": null, "created_by": null}],
        "config": {"Env": [null, "A=1"], "Labels": {"a": null, "b": "c"}, "Cmd": ["x", null], "ExposedPorts": {"80/tcp": null},
            "Healthcheck": {"Test": ["NONE"], "Interval": null, "Retries": null}},
        "rootfs": {"diff_ids": []}
    });
    let config = ImageConfig::parse(text.to_string().into()).unwrap();
    assert_eq!((config.env(), config.cmd()), (&["A=1".to_owned()][..], &["x".to_owned(), String::new()][..]));
    assert_eq!((config.labels()["a"].as_str(), config.labels()["b"].as_str()), ("", "c"));
    assert_eq!((config.healthcheck().unwrap().interval, config.exposed_ports().count()), (0, 1));
    assert_eq!(config.json(), text.to_string());
    let descriptor = json!({"mediaType": null, "digest": digest("a"), "size": 1, "annotations": {"a": null},
        "platform": {"architecture": null, "os": "linux", "variant": null}});
    let index = json!({"schemaVersion": 2, "mediaType": null, "manifests": [descriptor]});
    assert_eq!(Index::parse(index.to_string().as_bytes()).unwrap().manifests[0].annotations["a"], "");
}
