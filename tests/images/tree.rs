//! Which images stand on which, how they came to be, and what they share.

use super::*;
use coracle::ImageTree;

/// The same image with another history.
fn with_history(image: &Fixture, history: Value) -> Fixture {
    let mut config: Value = serde_json::from_slice(&image.config).unwrap();
    config["history"] = history;
    Fixture { layers: image.layers.clone(), config: config.to_string().into_bytes() }
}

fn take(store: &Store, image: &Fixture, name: &str) -> Image {
    load(store, &docker_archive(&[(image, &[name])])).unwrap().remove(0)
}

#[test]
fn a_history_is_joined_with_layers_and_their_sizes() {
    let store = Store::temp().unwrap();
    let layers = Fixture::new(&["one", "two", "three"]);
    let history = json!([
        {"created": "2026-01-02T03:04:05Z", "created_by": "ADD one", "comment": "base"},
        {"created_by": "ENV A=1", "empty_layer": true, "author": "me"},
        {"created_by": "RUN two"},
    ]);
    let image = take(&store, &with_history(&layers, history), "app");
    let found = image.history().unwrap();
    let words: Vec<_> = found.iter().map(|step| step.created_by.as_str()).collect();
    assert_eq!(words, ["ADD one", "ENV A=1", "RUN two", ""], "a layer that has no words is there");
    assert_eq!((found[0].comment.as_deref(), found[1].author.as_deref()), (Some("base"), Some("me")));
    assert_eq!(found[0].created, image.created());
    assert!(found[2].created.is_none() && found[1].layer.is_none());
    assert_eq!((found[1].size, found[1].unpacked_size), (0, Some(0)));
    let own = image.layers().unwrap();
    let steps = [&found[0], &found[2], &found[3]];
    for ((step, layer), plain) in steps.iter().zip(&own).zip(&layers.layers) {
        assert_eq!((step.size, step.unpacked_size), (layer.size(), Some(plain.len() as u64)));
        assert_eq!(step.layer.as_ref().unwrap().digest, layer.digest());
        assert_eq!((step.diff_id, step.chain_id), (Some(layer.diff_id()), Some(layer.chain_id())));
    }
    // More words than layers: nothing is made up.
    let step = json!({"created_by": "RUN it"});
    let image = take(&store, &with_history(&Fixture::new(&["one"]), json!([step, step])), "more");
    let found = image.history().unwrap();
    assert_eq!((found.len(), found[1].layer.is_none(), found[1].size), (2, true, 0));
    assert!(Image::host(&store).unwrap().history().unwrap().is_empty());
}

#[test]
fn images_stand_on_others_by_their_layers() {
    let store = Store::temp().unwrap();
    let base = Fixture::new(&["base"]);
    let env =
        with_history(&base, json!([{"created_by": "test"}, {"created_by": "ENV", "empty_layer": true}]));
    let all = [
        ("base", base),
        ("env", env),
        ("app", Fixture::new(&["base", "app"])),
        ("tool", Fixture::new(&["base", "tool"])),
        ("top", Fixture::new(&["base", "app", "top"])),
        // The same layer, but not at the bottom.
        ("other", Fixture::new(&["other", "app"])),
        ("empty", Fixture::new(&[])),
    ];
    for (name, image) in &all {
        take(&store, image, name);
    }
    let told = |images: Vec<Image>| -> Vec<String> {
        images.iter().flat_map(names).map(|name| name.replace(":latest", "")).collect()
    };
    let ancestors = |name: &str| told(store.image(name).unwrap().ancestors().unwrap());
    let descendants = |name: &str| told(store.image(name).unwrap().descendants().unwrap());
    assert_eq!(descendants("base"), ["env", "app", "tool", "top"]);
    assert_eq!(descendants("app"), ["top"]);
    assert_eq!(ancestors("top"), ["app", "base", "env"]);
    assert_eq!(ancestors("env"), ["base"]);
    for none in ["base", "other", "empty"] {
        assert!(ancestors(none).is_empty(), "{none}");
    }
    for none in ["top", "other", "empty", "tool"] {
        assert!(descendants(none).is_empty(), "{none}");
    }
    assert!(Image::host(&store).unwrap().descendants().unwrap().is_empty());

    // The same as trees, in the order in which they came.
    fn told_tree(trees: &[ImageTree]) -> String {
        let one = |tree: &ImageTree| {
            assert_eq!(tree.usage, tree.image.usage().unwrap());
            let name = names(&tree.image)[0].replace(":latest", "");
            if tree.children.is_empty() { name } else { format!("{name}({})", told_tree(&tree.children)) }
        };
        trees.iter().map(one).collect::<Vec<_>>().join(" ")
    }
    assert_eq!(told_tree(&store.image_tree().unwrap()), "base(env app(top) tool) other empty");
    // As a layer alone says nothing of what was set below it, the history decides between images with the same layers.
    let step = |name: &str| json!({ "created_by": name });
    let env = json!({"created_by": "ENV", "empty_layer": true});
    let late = with_history(&Fixture::new(&["base", "late"]), json!([step("test"), env, step("late")]));
    take(&store, &late, "late");
    assert_eq!(ancestors("late"), ["env", "base"]);
    assert_eq!(told_tree(&store.image_tree().unwrap()), "base(env(late) app(top) tool) other empty");
    let with = |layer: Digest| told(store.images_with_layer(&layer).unwrap());
    let app = &store.image("app").unwrap().layers().unwrap()[1];
    // The archive alone is in one more image than the archive on top of what is below it.
    assert_eq!(with(app.diff_id()), ["app", "top", "other"]);
    assert_eq!(with(app.digest()), ["app", "top", "other"]);
    assert_eq!(with(app.chain_id()), ["app", "top"]);
    assert!(with(Digest::of(b"")).is_empty());
    // One that went leaves what stood on it to the next.
    store.remove_image("app").unwrap();
    assert_eq!(told_tree(&store.image_tree().unwrap()), "base(env(late) tool top) other empty");
}

#[test]
fn what_is_shared_is_told_from_what_is_not() {
    let store = Store::temp().unwrap();
    let (base, above) = (Fixture::new(&["base"]), Fixture::new(&["base", "above"]));
    let first = take(&store, &base, "base");
    let layer = |image: &Fixture, n: usize| image.layers[n].len() as u64;
    let alone = first.usage().unwrap();
    assert_eq!((alone.shared, alone.unique), (0, first.size()));
    assert_eq!((alone.unpacked_shared, alone.unpacked_unique), (0, layer(&base, 0)));
    let second = take(&store, &above, "above");
    let usage = second.usage().unwrap();
    assert_eq!((usage.shared, usage.unique), (layer(&base, 0), second.size() - layer(&base, 0)));
    assert_eq!((usage.unpacked_shared, usage.unpacked_unique), (layer(&base, 0), layer(&above, 1)));
    // What is unique is what a removal frees.
    drop((first, second));
    assert_eq!(store.remove_image("above").unwrap().freed, usage.unique);
    assert_eq!(store.image("base").unwrap().usage().unwrap(), alone);
}
