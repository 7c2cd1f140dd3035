//! Whole builds without RUN, which any user on any machine can do.
#![forbid(unsafe_code)]

use super::*;
use crate::error::ErrorKind;
use std::fs;
use std::time::UNIX_EPOCH;

/// What a build told, in words.
fn told(build: Build) -> (Build, Arc<Mutex<Vec<String>>>) {
    let words = Arc::new(Mutex::new(Vec::new()));
    let to = words.clone();
    let build = build.on_event(move |event| {
        let word = match event {
            BuildEvent::Step { step } => format!("{}/{} {}", step.number, step.of, step.text),
            BuildEvent::Cached { .. } => "cached".to_owned(),
            BuildEvent::Warning { text, .. } => format!("warning: {text}"),
            _ => return,
        };
        to.lock().unwrap().push(word);
    });
    (build, words)
}

fn run(store: &Store, build: Build) -> (Image, Vec<String>) {
    let (build, words) = told(build);
    let image = build.run(store).unwrap();
    let words = std::mem::take(&mut *words.lock().unwrap());
    (image, words)
}

fn context(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn cached(words: &[String]) -> usize {
    words.iter().filter(|word| *word == "cached").count()
}

#[test]
fn a_step_is_an_image_that_is_found_but_not_listed() {
    let store = Store::temp().unwrap();
    let ids = Arc::new(Mutex::new(Vec::new()));
    let to = ids.clone();
    let text = "FROM scratch\nENV A=1\nCOPY <<E /f\nx\nE\nLABEL l=1";
    let build = Build::empty().dockerfile_text(text).on_event(move |event| {
        if let BuildEvent::Done { id, .. } = event {
            to.lock().unwrap().push(*id);
        }
    });
    let image = build.run(&store).unwrap();
    let ids = ids.lock().unwrap().clone();
    assert_eq!((ids.len(), ids[3]), (4, *image.id()));
    assert_eq!(store.images().unwrap().len(), 1);
    let step = store.image(&ids[1].hex()[..20]).unwrap();
    assert_eq!(step.config().env().last().unwrap(), "A=1");
    drop(step);
    // Garbage it is only once nobody may want to build on it.
    let listed = image.id().to_string();
    drop(image);
    store.prune_images(true).unwrap();
    assert!(store.images().unwrap().is_empty());
    assert!(store.image(&ids[1].to_string()).is_ok() && store.image(&listed).is_ok());
    store.remove_image(&ids[1].to_string()).unwrap();
    assert_eq!(store.image(&ids[1].to_string()).unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.prune_cache(None, None).unwrap().steps, 2);
    assert_eq!(store.image(&listed).unwrap_err().kind(), ErrorKind::NotFound);
}

#[test]
fn a_second_build_does_nothing_and_a_change_as_much_as_it_must() {
    let (store, dir) = (Store::temp().unwrap(), context(&[("a", "1"), ("b", "1")]));
    let text = "FROM scratch\nENV A=1\nCOPY a /a\nCOPY b /b\nLABEL l=1";
    let build = || Build::context(dir.path()).dockerfile_text(text).tag("app");
    let (first, words) = run(&store, build());
    assert_eq!((words.len(), cached(&words)), (5, 0));
    let (second, words) = run(&store, build());
    assert_eq!((cached(&words), second.id()), (4, first.id()));
    fs::write(dir.path().join("b"), "two").unwrap();
    let (third, words) = run(&store, build());
    assert_eq!(cached(&words), 2);
    assert_ne!(third.id(), first.id());
    let (_, words) = run(&store, build().no_cache(true));
    assert_eq!(cached(&words), 0);
    assert_eq!(store.image("app").unwrap().config().labels()["l"], "1");
}

#[test]
fn an_image_with_the_same_steps_is_a_cache_where_that_is_wanted() {
    let (store, other) = (Store::temp().unwrap(), Store::temp().unwrap());
    let dir = context(&[("a", "1"), ("b", "1")]);
    let build = || {
        Build::context(dir.path()).dockerfile_text("FROM scratch\nCOPY a /a\nENV X=1\nCOPY b /b").tag("app")
    };
    build().run(&store).unwrap();
    let mut archive = Vec::new();
    store.image("app").unwrap().save(&mut archive).unwrap();
    Image::load_reader(&other, &archive[..]).unwrap();
    let (_, words) = run(&other, build());
    assert_eq!(cached(&words), 0);
    other.prune_cache(None, None).unwrap();
    Image::load_reader(&other, &archive[..]).unwrap();
    let (_, words) = run(&other, build().cache_from("other").cache_from("app").images_as_cache(false));
    assert_eq!(cached(&words), 2, "{words:?}");
    other.prune_cache(None, None).unwrap();
    Image::load_reader(&other, &archive[..]).unwrap();
    let (image, words) = run(&other, build().images_as_cache(true));
    assert_eq!(cached(&words), 2, "{words:?}");
    assert_eq!(image.config().diff_ids(), store.image("app").unwrap().config().diff_ids());
}

#[test]
fn with_a_time_for_all_two_stores_have_the_same_image() {
    let dir = context(&[("a", "1")]);
    let text =
        "FROM scratch AS one\nWORKDIR /x/y\nCOPY a .\nFROM one\nENV B=2\nARG C=3\nCOPY --from=one /x /z";
    let build = || Build::context(dir.path()).dockerfile_text(text);
    let time = UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let stores = [Store::temp().unwrap(), Store::temp().unwrap()];
    let first = build().source_date_epoch(time).run(&stores[0]).unwrap();
    let second = build().arg("SOURCE_DATE_EPOCH", "1700000000").run(&stores[1]).unwrap();
    assert_eq!(first.digest(), second.digest());
    assert_eq!(first.created(), Some(time));
    let error = build().arg("SOURCE_DATE_EPOCH", "today").run(&stores[0]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

/// As in BuildKit the links stay.
#[test]
fn workdir_makes_its_directory_where_links_lead() {
    let (store, dir) = (Store::temp().unwrap(), context(&[("file", "1"), ("srv/there/x", "1")]));
    for (name, target) in
        [("srv/app", "/data/app"), ("srv/up", "../gone/deep"), ("srv/one", "there"), ("loop", "loop")]
    {
        std::os::unix::fs::symlink(target, dir.path().join(name)).unwrap();
    }
    let build = |path: &str| {
        Build::context(dir.path()).dockerfile_text(format!("FROM scratch\nCOPY . /\nWORKDIR {path}"))
    };
    for (path, made, layers) in [
        ("/srv/app", "/data/app", 2),
        ("/srv/up/sub", "/gone/deep/sub", 2),
        ("/srv/one/new", "/srv/there/new", 2),
        ("/srv/one", "/srv/there", 1),
    ] {
        let image = build(path).run(&store).unwrap();
        let found = image.locate(path.as_ref()).unwrap();
        assert_eq!(found, Some((made.into(), crate::layer::EntryKind::Directory)), "{path}");
        assert_eq!((image.config().working_dir(), image.config().diff_ids().len()), (path, layers));
    }
    for path in ["/file", "/file/x", "/loop"] {
        let error = build(path).run(&store).unwrap_err();
        assert_eq!((error.kind(), error.position()), (ErrorKind::InvalidInput, Some((3, 1))), "{error}");
    }
}

#[test]
fn a_base_without_a_path_gets_dockers() {
    let store = Store::temp().unwrap();
    let made =
        Build::empty().dockerfile_text("FROM scratch\nENV A=1\nONBUILD ENV D=$PATH").run(&store).unwrap();
    made.tag("usual").unwrap();
    let bare = made.without_env("PATH").unwrap();
    bare.tag("bare").unwrap();
    made.with_env("PATH", "/mine").unwrap().tag("own").unwrap();
    let env = |text: &str| {
        let image = Build::empty().dockerfile_text(text).run(&store).unwrap();
        image.config().env().join(" ").replace(crate::manifest::DEFAULT_PATH, "USUAL")
    };
    assert_eq!(env("FROM bare"), "A=1 PATH=USUAL D=USUAL");
    assert_eq!(env("FROM bare AS one\nENV B=2\nFROM one\nENV C=$PATH"), "A=1 PATH=USUAL D=USUAL B=2 C=USUAL");
    assert_eq!(env("FROM bare\nENV PATH=/x:$PATH"), "A=1 PATH=/x:USUAL D=USUAL");
    assert_eq!(env("FROM own"), "PATH=/mine A=1 D=/mine");
    // What nothing is added to, and an image without any settings.
    let plain = |image: &Image, name: &str| {
        let image = image.retouched(|config| {
            config["config"].as_object_mut().unwrap().remove("OnBuild");
            Ok(())
        });
        image.unwrap().tag(name).unwrap();
        Build::empty().dockerfile_text(format!("FROM {name}")).run(&store).unwrap()
    };
    assert_eq!(plain(&made, "as-it-is").id(), store.image("as-it-is").unwrap().id());
    let changed = plain(&bare, "changed");
    assert_eq!(changed.config().history().len(), bare.config().history().len());
    assert_eq!(changed.config().env().len(), 2);
    let none = bare.retouched(|config| {
        config.as_object_mut().unwrap().remove("config");
        Ok(())
    });
    none.unwrap().tag("none").unwrap();
    assert_eq!(env("FROM none"), "PATH=USUAL");
}

#[test]
fn triggers_are_done_below_from_and_gone_after_that() {
    let (store, dir) = (Store::temp().unwrap(), context(&[("a", "1")]));
    let base = "FROM scratch\nONBUILD COPY a /a\nONBUILD ENV T=1\nONBUILD LABEL l=1";
    Build::empty().dockerfile_text(base).tag("base").run(&store).unwrap();
    let (image, words) = run(&store, Build::context(dir.path()).dockerfile_text("FROM base\nENV U=$T"));
    assert_eq!(words, ["1/2 FROM base", "1/2 COPY a /a", "1/2 ENV T=1", "1/2 LABEL l=1", "2/2 ENV U=$T"]);
    assert!(image.config().on_build().is_empty() && image.config().env().contains(&"U=1".to_owned()));
    assert!(image.open("/a").is_ok());
    let error = Build::empty().dockerfile_text("# one\nFROM base").run(&store).unwrap_err();
    assert_eq!(error.position(), Some((2, 1)));
    assert!(error.to_string().contains("ONBUILD COPY a /a"), "{error}");
}

#[test]
fn what_is_wrong_has_its_line() {
    let store = Store::temp().unwrap();
    let wrong = |text: &str| Build::empty().dockerfile_text(text).run(&store).unwrap_err();
    let error = wrong("FROM scratch\n\nCOPY missing /");
    assert_eq!((error.kind(), error.position()), (ErrorKind::NotFound, Some((3, 1))));
    assert!(error.to_string().contains("    3 | COPY missing /"), "{error}");
    let error = wrong("FROM scratch\nENV A=${B:?needed}");
    assert_eq!(error.position().unwrap().0, 2);
    assert_eq!(wrong("FROM a AS b\nFROM scratch\nCOPY --from=3 a b").position().unwrap().0, 3);
    assert_eq!(wrong("FROM scratch\nRUN --security=insecure x").kind(), ErrorKind::PermissionDenied);
    assert_eq!(wrong("FROM scratch\nRUN --mount=type=cache,target=/proc/x x").kind(), ErrorKind::Unsupported);
    let error = Build::empty().dockerfile_text("FROM scratch").target("x").run(&store).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(store.images().unwrap().is_empty());
}

#[test]
fn contexts_with_a_name_take_the_place_of_stages_and_images() {
    let (store, dir) = (Store::temp().unwrap(), context(&[("f", "named")]));
    let other = Build::empty().dockerfile_text("FROM scratch\nENV O=1\nCOPY <<E /f\nother\nE").tag("other");
    other.run(&store).unwrap();
    let text = "FROM nowhere.example/x AS one\nFROM debian\nCOPY --from=one /f /1\nCOPY --from=files f /2";
    let build = Build::empty()
        .dockerfile_text(text)
        .build_context("one", BuildContext::image("other"))
        .build_context("debian", BuildContext::image("other"))
        .build_context("files", BuildContext::dir(dir.path()));
    let image = build.run(&store).unwrap();
    let read = |path: &str| {
        let mut text = String::new();
        image.open(path).unwrap().read_to_string(&mut text).unwrap();
        text
    };
    assert_eq!(
        (read("/1").as_str(), read("/2").as_str(), read("/f").as_str()),
        ("other\n", "named", "other\n")
    );
}

#[test]
fn labels_targets_and_arguments_are_those_of_the_build() {
    let store = Store::temp().unwrap();
    let text = "FROM scratch AS a\nLABEL x=1 y=1\nARG V\nLABEL v=$V\nFROM nowhere.example/x\nRUN x";
    let build =
        Build::empty().dockerfile_text(text).target("A").label("y", "2").arg("V", "9").arg("W", "lost");
    let (image, words) = run(&store, build);
    let labels = image.config().labels();
    assert_eq!((&*labels["x"], &*labels["y"], &*labels["v"]), ("1", "2", "9"));
    assert_eq!(image.config().history().len(), 3);
    assert!(words.last().unwrap().contains("W"), "{words:?}");
    assert!(image.references().unwrap().is_empty());
}

#[test]
fn what_was_used_last_is_kept() {
    let store = Store::temp().unwrap();
    let build = |name: &str, bytes: usize| {
        let text = format!("FROM scratch\nCOPY <<E /{name}\n{}\nE", "x".repeat(bytes));
        Build::empty().dockerfile_text(text).run(&store).unwrap();
    };
    build("old", 50_000);
    let cache = store.path().join("cache");
    let hour_ago = std::time::SystemTime::now() - Duration::from_secs(3600);
    for entry in fs::read_dir(&cache).unwrap() {
        let file = fs::File::options().write(true).open(entry.unwrap().path()).unwrap();
        file.set_times(fs::FileTimes::new().set_modified(hour_ago)).unwrap();
    }
    build("new", 50_000);
    store.prune_images(true).unwrap();
    assert_eq!(store.prune_cache(Some(Duration::from_secs(7200)), None).unwrap().steps, 0);
    assert_eq!(store.prune_cache(None, Some(1 << 30)).unwrap().steps, 0);
    let blobs = || fs::read_dir(store.path().join("blobs/sha256")).unwrap().count();
    let before = blobs();
    let pruned = store.prune_cache(None, Some(80_000)).unwrap();
    assert_eq!(pruned.steps, 1);
    assert_eq!(fs::read_dir(&cache).unwrap().count(), 1);
    assert_eq!(blobs(), before - 3, "the layer, the configuration and the manifest of the old one");
    assert!(pruned.freed > 50_000);
    assert_eq!(store.prune_cache(Some(Duration::ZERO), None).unwrap().steps, 1);
}
