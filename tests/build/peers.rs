//! What was built or committed runs where others run it, and travels unchanged.

#[cfg(feature = "registry")]
use super::common::distribution::{Distribution, skopeo};
use super::common::docker::Docker;
use super::common::podman::Podman;
use super::*;

const TEXT: &str = "\
FROM localhost/box:1
RUN mkdir /app && echo made by RUN > /app/made && chown 1000:1000 /app && rm -r /opt/kept
COPY --chmod=755 tool /usr/local/bin/
WORKDIR /app
ENV GREETING=ahoy
USER alice
ENTRYPOINT [\"tool\"]
CMD [\"default\"]
";
const TOOL: &str = "#!/bin/sh\necho \"$GREETING $1 from $(pwd) as $(id -un)\"\ncat made\nls /opt\n";
const SAYS: &str = "ahoy default from /app as alice\nmade by RUN\nagain\n";
const SAYS_COMMITTED: &str = "ahoy default from /app as alice\nmade by RUN\nand committed\nagain\n";

/// What a container of the image changes before it is committed.
const CHANGE: &str =
    "cp made new && echo and committed >> new && mv -f new made && rm -r /app/none 2>&1; echo x > here";

struct Made {
    image: Image,
    name: &'static str,
    says: &'static str,
}

/// One that was built, one that was committed of it, and an archive of both that everybody loads.
fn made(store: &Store, dir: &Path) -> ([Made; 2], String) {
    let context = context(&[("Dockerfile", TEXT), ("tool", TOOL)]);
    let built = Build::context(context.path()).tag("localhost/built:1").run(store).unwrap();
    let container = sh(&built, CHANGE).entrypoint([] as [&str; 0]).create().unwrap();
    container.start().unwrap();
    container.wait().unwrap();
    let commit = container.committing().name("localhost/committed:1");
    let committed = commit.change("ENTRYPOINT [\"tool\"]").change("CMD [\"default\"]").run().unwrap();
    container.remove().unwrap();
    let archive = dir.join("made.tar");
    let save = coracle::Save::new().image(&built).unwrap().image(&committed).unwrap();
    save.write(fs::File::create(&archive).unwrap()).unwrap();
    let made = [
        Made { image: built, name: "localhost/built:1", says: SAYS },
        Made { image: committed, name: "localhost/committed:1", says: SAYS_COMMITTED },
    ];
    (made, archive.to_str().unwrap().to_owned())
}

#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn it_runs_here() {
    let store = bases::store();
    let dir = tempfile::tempdir().unwrap();
    let (made, archive) = made(&store, dir.path());
    // And from its archive in a store that never saw the base.
    let elsewhere = Store::temp().unwrap();
    Image::load(&elsewhere, archive).unwrap();
    for Made { image, name, says } in made {
        let loaded = elsewhere.image(name).unwrap();
        assert_eq!(loaded.id(), image.id());
        for image in [image, loaded] {
            let out = coracle::Container::builder(&image).run().unwrap();
            assert_eq!(out.stdout_text(), says, "{}", out.stderr_text());
        }
    }
}

#[test]
#[ignore = "needs root, busybox and podman: run with --include-ignored"]
fn podman_runs_it() {
    let dir = tempfile::tempdir().unwrap();
    let (made, archive) = made(&bases::store(), dir.path());
    let podman = Podman::new();
    podman.run(&["load", "--quiet", "--input", &archive]);
    // Without the limits that it would raise above this process's own.
    let limits = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];
    let run = ["--cgroup-manager", "cgroupfs", "run", "--rm", "--network", "none"];
    for Made { image, name, says } in made {
        assert_eq!(podman.inspect("{{.Id}}", name), image.id().hex());
        assert_eq!(podman.run(&[&run[..], &limits, &[name]].concat()), says);
    }
    podman.clear();
}

#[test]
#[ignore = "needs root, busybox, umoci and runc: run with --include-ignored"]
fn runc_runs_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = bases::store();
    let (made, _) = made(&store, dir.path());
    for (number, Made { name, says, .. }) in made.into_iter().enumerate() {
        let at = |name: &str| dir.path().join(format!("{name}-{number}")).to_str().unwrap().to_owned();
        // From the store itself, which is a layout.
        peer("umoci", ["unpack", "--image", &format!("{}:{name}", store.path().display()), &at("bundle")]);
        let path = Path::new(&at("bundle")).join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["process"]["rlimits"] = json!([]);
        fs::write(path, config.to_string()).unwrap();
        let name = format!("coracle-made-{}-{number}", std::process::id());
        assert_eq!(peer("runc", ["--root", &at("runc"), "run", "--bundle", &at("bundle"), &name]), says);
    }
}

#[test]
#[ignore = "needs root, busybox and docker: run with --include-ignored"]
fn docker_runs_it() {
    let dir = tempfile::tempdir().unwrap();
    let (made, archive) = made(&bases::store(), dir.path());
    let docker = Docker::start();
    docker.run(&["load", "--quiet", "--input", &archive]);
    for Made { image, name, says } in made {
        let id = docker.run(&["image", "inspect", "--format", "{{.Id}}", name]);
        assert_eq!(id.trim(), image.id().to_string());
        assert_eq!(docker.run(&["run", "--rm", "--network", "none", name]), says);
    }
    // What it shows of how it came to be.
    let lines = docker.run(&["history", "--no-trunc", "--format", "{{.CreatedBy}}", "localhost/built:1"]);
    assert_eq!(lines.lines().count(), 8, "{lines}");
    assert!(lines.starts_with("CMD [\"default\"]\n"), "{lines}");
}

#[cfg(feature = "registry")]
#[test]
#[ignore = "needs busybox: run with --include-ignored"]
fn it_is_pushed_and_pulled_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let store = bases::store();
    let ([Made { image, .. }, committed], _) = made(&store, dir.path());
    let registry = coracle::Registry::builder().anonymous(coracle::Access::Write);
    let there = Store::temp().unwrap();
    let serving = registry.serve(&there, "127.0.0.1:0").unwrap();
    let name = format!("{}/me/built:1", serving.addr());
    image.tag(&name).unwrap();
    coracle::Push::new(&name).run(&store.image(&name).unwrap()).unwrap();
    let other = Store::temp().unwrap();
    let pulled = Image::pull(&other, &name).unwrap();
    assert_eq!(pulled.id(), image.id());
    assert_eq!(pulled.config().json(), image.config().json());
    assert_eq!(coracle::Container::builder(&pulled).run().unwrap().stdout_text(), SAYS);
    // So does one that was committed.
    let other_name = format!("{}/me/committed:1", serving.addr());
    committed.image.tag(&other_name).unwrap();
    coracle::Push::new(&other_name).run(&store.image(&other_name).unwrap()).unwrap();
    let pulled_too = Image::pull(&Store::temp().unwrap(), &other_name).unwrap();
    assert_eq!(
        (pulled_too.id(), pulled_too.config().json()),
        (committed.image.id(), committed.image.config().json())
    );
    assert_eq!(coracle::Container::builder(&pulled_too).run().unwrap().stdout_text(), SAYS_COMMITTED);
    // Pulled, it is a cache as well, where it is said to be one: of what made it nothing is done again.
    let context = context(&[("Dockerfile", TEXT), ("tool", TOOL)]);
    bases::fill(&other);
    let (again, told) = told::watched(Build::context(context.path()).cache_from(&name), &other);
    assert_eq!(again.unwrap().config().diff_ids(), image.config().diff_ids());
    let works =
        told.iter().filter(|told| told.step.text.starts_with("RUN") || told.step.text.starts_with("COPY"));
    assert!(works.clone().count() == 2 && works.clone().all(|told| told.is_cached));
}

/// As docker-registry keeps it, and to which what it has is not sent again.
#[cfg(feature = "registry")]
#[test]
#[ignore = "needs busybox, docker-registry and skopeo: run with --include-ignored"]
fn docker_registry_gives_it_back_unchanged() {
    let dir = tempfile::tempdir().unwrap();
    let (made, _) = made(&bases::store(), dir.path());
    let registry = Distribution::start("");
    let sent = |tag: &str| {
        let log = registry.take_access(&format!("\"PUT /v2/me/app/manifests/{tag} "));
        log.iter()
            .filter(|line| line.contains("/v2/me/app/blobs/uploads/") && line.contains("\"PUT "))
            .count()
    };
    for (number, Made { image, name, says }) in made.into_iter().enumerate() {
        let tag = format!("n{number}");
        let there = format!("{}/me/app:{tag}", registry.authority);
        let blobs = image.layer_descriptors().len() + 1;
        let pushed = image.push(&there).unwrap().digest;
        // The second stands on the first.
        assert_eq!(sent(&tag), if number == 0 { blobs } else { 2 }, "{name}");
        assert_eq!(image.push(&there).unwrap().digest, pushed, "{name}");
        assert_eq!(sent(&tag), 0, "{name}");

        let elsewhere = Store::temp().unwrap();
        let pulled = Image::pull(&elsewhere, &there).unwrap();
        registry.take_answers("\"GET /v2/me/app/blobs/", blobs);
        assert_eq!(*pulled.digest(), pushed, "{name}");
        assert_eq!(pulled.id(), image.id(), "{name}");
        assert_eq!(pulled.config().json(), image.config().json(), "{name}");
        assert_eq!(pulled.config().diff_ids(), image.config().diff_ids(), "{name}");
        assert_eq!(coracle::Container::builder(&pulled).run().unwrap().stdout_text(), says);
        assert!(elsewhere.verify().unwrap().is_sound());
        // Again it is one question, and what was pulled is pushed as it is.
        assert_eq!(Image::pull(&elsewhere, &there).unwrap().digest(), pulled.digest(), "{name}");
        let head = format!("\"HEAD /v2/me/app/manifests/{tag} ");
        let asked = registry.take_access(&head);
        assert!(asked.iter().all(|line| line.contains(&head)), "{asked:?}");
        assert_eq!(pulled.push(&there).unwrap().digest, pushed, "{name}");
        assert_eq!(sent(&tag), 0, "{name}");

        let there = format!("docker://{there}");
        let seen = skopeo(&["inspect", "--tls-verify=false", &there]);
        let seen: Value = serde_json::from_str(&seen).unwrap();
        let layers: Vec<_> =
            pulled.layer_descriptors().iter().map(|layer| layer.digest.to_string()).collect();
        assert_eq!((&seen["Digest"], &seen["Layers"]), (&json!(pushed), &json!(layers)), "{name}");
        let config = skopeo(&["inspect", "--tls-verify=false", "--config", "--raw", &there]);
        assert_eq!(config, image.config().json(), "{name}");
        registry.take_answers("/v2/me/app/blobs/", 1);
    }
}
