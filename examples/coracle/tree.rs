//! `history`, `images --tree`, `image diff`: how images came to be, and how they are to each other.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, switch};
use crate::commit;
use crate::containers::short;
use crate::fail::{Result, usage};
use crate::flags;
use crate::format::{self, Table, ago, print};
use coracle::{HistoryEntry, Image, ImageTree, Store, rfc3339};
use serde_json::{Value, json};

pub const HISTORY: &[Flag] = &[
    flag("format", "FORMAT", "json, or {{.CreatedBy}}, {{.Size}}, {{.UnpackedSize}}, …"),
    switch("human", "Sizes and times for people (default: true)").short('H'),
    switch("no-trunc", "Whole ids and commands"),
    switch("quiet", "Ids only").short('q'),
];

/// Docker's width of a command.
const COMMAND: usize = 45;

fn truncated(text: &str) -> String {
    match text.chars().count() > COMMAND {
        true => text.chars().take(COMMAND - 1).chain(['…']).collect(),
        false => text.to_owned(),
    }
}

/// As docker has them. As in every listing here the size is that of what is stored: they add up to the image's.
fn step(step: &HistoryEntry, id: &str, args: &Args) -> Value {
    let (human, whole) = (!args.is_off("human"), args.has("no-trunc"));
    let size = |bytes: u64| if human { format::size(bytes) } else { bytes.to_string() };
    let created_at = step.created.map_or("N/A".into(), rfc3339);
    let created_by = step.created_by.replace('\t', " ");
    json!({
        "ID": id,
        "CreatedAt": created_at,
        "CreatedSince": if human { step.created.map_or("N/A".into(), ago) } else { created_at.clone() },
        "CreatedBy": if whole { created_by } else { truncated(&created_by) },
        "Size": size(step.size),
        "Comment": step.comment.clone().unwrap_or_default(),
        "UnpackedSize": step.unpacked_size.map_or("N/A".into(), size),
        "Digest": step.layer.as_ref().map(|layer| layer.digest.to_string()),
        "DiffID": step.diff_id.map(|id| id.to_string()),
    })
}

/// The newest first. Only that one has an id: no image is kept for the steps below.
pub fn history(store: &Store, args: &Args) -> Result<u8> {
    let image = flags::image(store, args.names()?[0])?;
    let id = id(&image, args.has("no-trunc"));
    let ids = std::iter::once(id.as_str()).chain(std::iter::repeat("<missing>"));
    let steps = image.history()?;
    let values: Vec<_> = steps.iter().rev().zip(ids).map(|(one, id)| step(one, id, args)).collect();
    let format = if args.has("quiet") { Some("{{.ID}}") } else { args.get("format")? };
    let columns = [
        ("IMAGE", "ID"),
        ("CREATED", "CreatedSince"),
        ("CREATED BY", "CreatedBy"),
        ("SIZE", "Size"),
        ("COMMENT", "Comment"),
    ];
    format::list(format, &columns, &values)?;
    Ok(0)
}

fn id(image: &Image, whole: bool) -> String {
    if whole { image.id().to_string() } else { short(&image.id().hex()).to_owned() }
}

/// Every image below the one that it stands on; of `wanted` alone those that stand on it.
pub fn tree(store: &Store, args: &Args, wanted: Option<&str>) -> Result<u8> {
    if let Some(other) = ["filter", "format", "quiet"].into_iter().find(|name| args.raw(name).is_some()) {
        return Err(usage(format!("--{other} can't be used with --tree")));
    }
    let mut trees = store.image_tree()?;
    if let Some(name) = wanted {
        let image = store.image(name)?;
        trees = find(trees, &image).into_iter().collect();
    } else {
        for image in store.broken_images()? {
            eprintln!("coracle: image {}: {}", image.digest(), image.error());
        }
    }
    let mut headings = vec!["IMAGE", "IMAGE ID", "CREATED", "SIZE", "SHARED SIZE", "UNIQUE SIZE"];
    if args.has("digests") {
        headings.insert(1, "DIGEST");
    }
    let mut table = Table::new(&headings);
    // Of each that is still to be shown: what stands before it, and before what stands on it.
    let mut todo: Vec<_> = trees.iter().rev().map(|tree| (tree, String::new(), String::new())).collect();
    while let Some((tree, first, rest)) = todo.pop() {
        let names: Vec<_> = tree.image.references()?.iter().map(|name| name.familiar()).collect();
        let name = if names.is_empty() { "<none>".into() } else { names.join(", ") };
        let mut cells = vec![format!("{first}{name}")];
        if args.has("digests") {
            cells.push(tree.image.digest().to_string());
        }
        cells.push(id(&tree.image, args.has("no-trunc")));
        cells.push(tree.image.created().map_or("N/A".into(), ago));
        cells.extend([tree.image.size(), tree.usage.shared, tree.usage.unique].map(format::size));
        table.row(cells);
        for (at, child) in tree.children.iter().enumerate().rev() {
            let (branch, line) =
                if at + 1 == tree.children.len() { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            todo.push((child, format!("{rest}{branch}"), format!("{rest}{line}")));
        }
    }
    print(table.text())?;
    Ok(0)
}

fn find(trees: Vec<ImageTree>, image: &Image) -> Option<ImageTree> {
    let mut todo = trees;
    while let Some(tree) = todo.pop() {
        if tree.image.digest() == image.digest() {
            return Some(tree);
        }
        todo.extend(tree.children);
    }
    None
}

/// As `docker diff` tells what a container changed.
pub fn diff(store: &Store, args: &Args) -> Result<u8> {
    let names = args.names()?;
    let (old, new) = (flags::image(store, names[0])?, flags::image(store, names[1])?);
    commit::show(&old.diff(&new)?, args)
}
