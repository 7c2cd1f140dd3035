//! `images`, `load`, `import`, `tag`, `rmi`, `image prune`, `image squash`, `image rebase`.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, switch};
use crate::containers::{familiar, short};
use crate::fail::{Result, each, fail, usage};
use crate::flags;
use crate::format::{self, ago, line};
use crate::moment::Moment;
use coracle::{BrokenImage, Digest, Image, Import, Reference, Store};
use serde_json::{Value, json};

pub const IMAGES: &[Flag] = &[
    switch("all", "The same: there are no images in between").short('a'),
    switch("digests", "Show the manifests' digests"),
    flag("filter", "KEY=VALUE", "reference=, label=, dangling=, before=, since=").short('f'),
    flag("format", "FORMAT", "json, or {{.Repository}}, {{.ID}}, …"),
    switch("no-trunc", "Whole ids"),
    switch("quiet", "Ids only").short('q'),
    switch("tree", "Below each image those that stand on it, and what they share"),
];
pub const LOAD: &[Flag] = &[
    flag("input", "FILE", "An archive, or a directory with an image layout; else stdin").short('i'),
    switch("quiet", "Say only what was loaded").short('q'),
];
pub const IMPORT: &[Flag] = &[
    flag("change", "INSTRUCTION", "As in a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, …")
        .short('c'),
    flag("message", "TEXT", "The comment in its history").short('m'),
];
pub const SQUASH: &[Flag] = &[flag("onto", "IMAGE", "Only the layers above this image's, which stay")];
pub const RMI: &[Flag] = &[switch("force", "Also when it has several names or a container").short('f')];

pub const PRUNE: &[Flag] = &[
    switch("all", "Those with names too").short('a'),
    flag("filter", "KEY=VALUE", "until=24h|TIME, label=KEY[=VALUE], label!=KEY[=VALUE], dangling=BOOL"),
    switch("force", "Always so: nobody is asked").short('f'),
];

/// Whether a name says which of its tags is meant.
pub fn has_tag(name: &str) -> bool {
    name.rsplit('/').next().is_some_and(|end| end.contains(':'))
}

/// `KEY`, or `KEY=VALUE`.
fn has_label(image: &Image, wanted: &str) -> bool {
    let labels = image.config().labels();
    match wanted.split_once('=') {
        Some((key, value)) => labels.get(key).is_some_and(|found| found == value),
        None => labels.contains_key(wanted),
    }
}

/// A name without its tag and its digest.
fn repository(name: &Reference) -> String {
    let whole = name.familiar();
    let whole = whole.split('@').next().unwrap_or_default();
    let tag = name.tag().map(|tag| format!(":{tag}")).unwrap_or_default();
    whole.strip_suffix(&tag).unwrap_or(whole).to_owned()
}

/// Repository and tag.
fn parts(name: Option<&Reference>) -> (String, String) {
    let none = || "<none>".to_owned();
    let tag = name.and_then(|name| name.tag()).map_or_else(none, str::to_owned);
    (name.map_or_else(none, repository), tag)
}

/// The digest by which its repository has an image; without a name its manifest's.
pub fn digest(image: &Image, name: Option<&Reference>) -> Result<Digest> {
    let Some(name) = name else { return Ok(*image.digest()) };
    if let Some(digest) = name.digest() {
        return Ok(*digest);
    }
    let all = image.repo_digests()?;
    let mine = all.iter().find(|other| (other.domain(), other.path()) == (name.domain(), name.path()));
    Ok(mine.and_then(|name| name.digest()).copied().unwrap_or(*image.digest()))
}

fn listed(image: &Image, name: Option<&Reference>, whole: bool) -> Result<Value> {
    let id = image.id().to_string();
    let (repository, tag) = parts(name);
    Ok(json!({
        "Repository": repository,
        "Tag": tag,
        "Digest": digest(image, name)?.to_string(),
        "ID": if whole { id.clone() } else { short(&image.id().hex()).to_owned() },
        "CreatedAt": image.created().map(coracle::rfc3339),
        "CreatedSince": image.created().map_or("N/A".into(), ago),
        "Size": format::size(image.size()),
    }))
}

/// One that can't be read has no id and no size: its manifest's digest removes it.
fn broken(image: &BrokenImage, name: Option<&Reference>, whole: bool) -> Value {
    let digest = image.digest().to_string();
    let (repository, tag) = parts(name);
    json!({
        "Repository": repository,
        "Tag": tag,
        "Digest": digest,
        "ID": if whole { digest.clone() } else { short(&image.digest().hex()).to_owned() },
        "CreatedAt": null,
        "CreatedSince": "<broken>",
        "Size": "<broken>",
        "Error": image.error().to_string(),
    })
}

/// Whether a text is as a pattern says; `*` is anything within a part of a name.
fn like(text: &str, pattern: &str) -> bool {
    match pattern.split_once('*') {
        None => text == pattern,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|text| {
            let within = text.find('/').unwrap_or(text.len());
            (0..=within).filter(|at| text.is_char_boundary(*at)).any(|at| like(&text[at..], rest))
        }),
    }
}

/// Whether an image under one of its names, or none, passes one `--filter`.
fn passes(
    store: &Store,
    image: &Image,
    name: Option<&Reference>,
    (key, value): (&str, &str),
) -> Result<bool> {
    Ok(match (key, value) {
        // As `image prune` has it.
        ("dangling", "true" | "1") => name.and_then(|name| name.tag()).is_none(),
        ("dangling", "false" | "0") => name.is_some(),
        ("reference", pattern) => {
            name.is_some_and(|name| like(&name.familiar(), pattern) || like(&repository(name), pattern))
        }
        ("label", wanted) => has_label(image, wanted),
        ("before", other) => image.created() < store.image(other)?.created(),
        ("since", other) => image.created() > store.image(other)?.created(),
        _ => return Err(usage(format!("invalid filter {key:?}"))),
    })
}

pub fn images(store: &Store, args: &Args) -> Result<u8> {
    if args.has("tree") {
        return crate::tree::tree(store, args, args.names()?.first().copied());
    }
    let filters = crate::containers::filters(args)?;
    let passed = |image: &Image, name: Option<&Reference>| -> Result<bool> {
        filters.iter().try_fold(true, |all, filter| Ok(all && passes(store, image, name, *filter)?))
    };
    let wanted = args.names()?.first().map(|name| familiar(name));
    let untagged = wanted.as_deref().map(|name| match name.rsplit_once(':') {
        Some((path, tag)) if !tag.contains('/') => path.to_owned(),
        _ => name.to_owned(),
    });
    // `debian` is all of its tags, `debian:12` the one; `familiar` gives the first one `:latest`.
    let tagged = args.names()?.first().is_some_and(|name| has_tag(name));
    let whole = args.has("no-trunc");
    let mut values = Vec::new();
    let mut all = store.images()?;
    all.sort_by_key(|image| std::cmp::Reverse(image.created()));
    let fits = |name: &Reference| {
        let full = name.familiar();
        match (&wanted, &untagged) {
            (Some(wanted), _) if tagged => full == *wanted,
            (_, Some(path)) => repository(name) == *path,
            _ => true,
        }
    };
    for image in &all {
        let names = image.references()?;
        let tags: Vec<_> = names.iter().filter(|name| name.tag().is_some()).map(repository).collect();
        // A digest beside a tag of the repository is no further line.
        for name in names.iter().filter(|name| name.tag().is_some() || !tags.contains(&repository(name))) {
            if fits(name) && passed(image, Some(name))? {
                values.push(listed(image, Some(name), whole)?);
            }
        }
        if names.is_empty() && wanted.is_none() && passed(image, None)? {
            values.push(listed(image, None, whole)?);
        }
    }
    // No filter can ask what they are like.
    let damaged = if filters.is_empty() { store.broken_images()? } else { Vec::new() };
    for image in &damaged {
        let shown = image.references().iter().filter(|name| fits(name)).map(Some);
        let nameless = (image.references().is_empty() && wanted.is_none()).then_some(None);
        let before = values.len();
        values.extend(shown.chain(nameless).map(|name| broken(image, name, whole)));
        if values.len() > before {
            eprintln!("coracle: image {}: {}", image.digest(), image.error());
        }
    }
    if args.has("quiet") {
        let mut seen = Vec::new();
        for id in values.iter().filter_map(|value| value["ID"].as_str()) {
            if !seen.contains(&id) {
                line(id)?;
                seen.push(id);
            }
        }
        return Ok(0);
    }
    let mut columns = vec![("REPOSITORY", "Repository"), ("TAG", "Tag")];
    if args.has("digests") {
        columns.push(("DIGEST", "Digest"));
    }
    columns.extend([("IMAGE ID", "ID"), ("CREATED", "CreatedSince"), ("SIZE", "Size")]);
    format::list(args.get("format")?, &columns, &values)?;
    Ok(0)
}

pub fn load(store: &Store, args: &Args) -> Result<u8> {
    let images = match args.raw("input") {
        Some(path) => Image::load(store, path)?,
        None => Image::load_reader(store, std::io::stdin())?,
    };
    for image in images {
        let names = image.references()?;
        for name in &names {
            line(format!("Loaded image: {}", name.familiar()))?;
        }
        if names.is_empty() {
            line(format!("Loaded image ID: {}", image.id()))?;
        }
    }
    Ok(0)
}

#[cfg(feature = "build")]
fn change(import: Import, text: &str) -> Result<Import> {
    Ok(import.change(text))
}

#[cfg(not(feature = "build"))]
fn change(_: Import, _: &str) -> Result<Import> {
    Err(fail("--change: this program was built without coracle's feature `build`"))
}

pub fn import(store: &Store, args: &Args) -> Result<u8> {
    let mut import = Import::new();
    for text in args.all("change")? {
        import = change(import, text)?;
    }
    if let Some(text) = args.get("message")? {
        import = import.message(text);
    }
    if let Some(name) = args.names()?.get(1) {
        import = import.name(*name);
    }
    let source = &args.operands[0];
    let image = match source == "-" {
        true => import.reader(store, std::io::stdin())?,
        false => import.path(store, source)?,
    };
    line(image.id().to_string())?;
    Ok(0)
}

pub fn tag(store: &Store, args: &Args) -> Result<u8> {
    let names = args.names()?;
    flags::image(store, names[0])?.tag(names[1])?;
    Ok(0)
}

pub fn squash(store: &Store, args: &Args) -> Result<u8> {
    let names = args.names()?;
    let image = flags::image(store, names[0])?;
    let squashed = match args.get("onto")? {
        Some(base) => image.squash_onto(&flags::image(store, base)?)?,
        None => image.squash()?,
    };
    squashed.tag(names[1])?;
    line(squashed.id().to_string())?;
    Ok(0)
}

pub fn rebase(store: &Store, args: &Args) -> Result<u8> {
    let names = args.names()?;
    let image = |at: usize| flags::image(store, names[at]);
    let rebased = image(0)?.rebase(&image(1)?, &image(2)?)?;
    rebased.tag(names[3])?;
    line(rebased.id().to_string())?;
    Ok(0)
}

pub fn rmi(store: &Store, args: &Args) -> Result<u8> {
    each(args.names()?, |name| {
        if name == flags::HOST {
            return Err(fail("@host is this machine itself, and in no store: there is nothing to remove"));
        }
        let removed = match args.has("force") {
            true => store.force_remove_image(name)?,
            false => store.remove_image(name)?,
        };
        for name in &removed.untagged {
            line(format!("Untagged: {}", name.familiar()))?;
        }
        removed.deleted.iter().try_for_each(|id| line(format!("Deleted: {id}")))
    })
}

/// What `image prune` may remove.
enum Wanted<'a> {
    Before(Moment),
    Label(&'a str),
    NotLabel(&'a str),
}

impl Wanted<'_> {
    fn fits(&self, image: &Image) -> bool {
        match self {
            Self::Before(moment) => image.created().is_some_and(|created| moment.is_after(created)),
            Self::Label(label) => has_label(image, label),
            Self::NotLabel(label) => !has_label(image, label),
        }
    }
}

pub fn prune(store: &Store, args: &Args) -> Result<u8> {
    let (mut all, mut wanted) = (args.has("all"), Vec::new());
    for (key, value) in crate::containers::filters(args)? {
        match (key, value) {
            ("dangling", "true" | "1") => all = false,
            ("dangling", "false" | "0") => all = true,
            ("until", text) => wanted.push(Wanted::Before(Moment::parse(text)?)),
            ("label", label) => wanted.push(Wanted::Label(label)),
            ("label!", label) => wanted.push(Wanted::NotLabel(label)),
            _ => return Err(usage(format!("invalid filter {:?}", format!("{key}={value}")))),
        }
    }
    let removed = match wanted.is_empty() {
        true => store.prune_images(all)?,
        false => store.prune_images_if(all, |image| wanted.iter().all(|one| one.fits(image)))?,
    };
    if !removed.deleted.is_empty() {
        line("Deleted Images:")?;
        removed.untagged.iter().try_for_each(|name| line(format!("untagged: {}", name.familiar())))?;
        removed.deleted.iter().try_for_each(|id| line(format!("deleted: {id}")))?;
        line("")?;
    }
    line(format!("Total reclaimed space: {}", format::size(removed.freed)))?;
    Ok(0)
}
