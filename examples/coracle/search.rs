//! `search`: images of docker.io and of other registries, and the tags of one.
#![forbid(unsafe_code)]

use crate::args::{Args, Flag, flag, switch};
use crate::fail::Result;
use crate::pull;
use coracle::Store;

pub const SEARCH: &[Flag] = &[
    flag("filter", "KEY=VALUE", "is-official=BOOL, stars=N").short('f'),
    flag("format", "FORMAT", "json, or {{.Name}}, {{.Description}}, {{.StarCount}}, …"),
    flag("limit", "N", "At most so many, up to 100 (default: 25)"),
    switch("list-tags", "Show the tags of the image that TERM names"),
    switch("no-trunc", "Whole descriptions"),
];

pub fn search(_: &Store, args: &Args) -> Result<u8> {
    ours::search(args, args.names()?[0])
}

#[cfg(not(feature = "registry"))]
mod ours {
    use super::*;

    pub fn search(_: &Args, term: &str) -> Result<u8> {
        Err(pull::not_there(term))
    }
}

#[cfg(feature = "registry")]
mod ours {
    use super::*;
    use crate::containers::filters;
    use crate::fail::usage;
    use crate::format;
    use coracle::{Reference, SearchResult};
    use serde_json::json;

    /// docker's own.
    const HUB: &str = "docker.io";
    const LIMIT: usize = 25;
    const LIMIT_MAX: usize = 100;
    /// As docker cuts them.
    const DESCRIPTION: usize = 45;

    pub fn search(args: &Args, term: &str) -> Result<u8> {
        if args.has("list-tags") {
            return tags(args, term);
        }
        let limit = args.number("limit")?.unwrap_or(LIMIT);
        if !(1..=LIMIT_MAX).contains(&limit) {
            return Err(usage(format!("--limit {limit}: 1 to {LIMIT_MAX}")));
        }
        let filters = filters(args)?;
        let (host, term) = match term.split_once('/') {
            Some((host, term)) if host == "localhost" || host.contains(['.', ':']) => (host, term),
            _ => (HUB, term),
        };
        let client = pull::client(args, host)?;
        let mut rows = Vec::new();
        for found in client.search(term, limit)? {
            if !passes(&found, &filters)? {
                continue;
            }
            // So that it can be pulled by what is shown.
            let name = match client.host() {
                HUB => found.name,
                host => format!("{host}/{}", found.name),
            };
            let mut description = format::visible(&found.description);
            if !args.has("no-trunc") && description.chars().count() > DESCRIPTION {
                description = description.chars().take(DESCRIPTION - 1).chain(['…']).collect();
            }
            let official = if found.official { "[OK]" } else { "" };
            rows.push(json!({
                "Name": name,
                "Description": description,
                "StarCount": found.stars,
                "IsOfficial": official,
            }));
        }
        let columns = [
            ("NAME", "Name"),
            ("DESCRIPTION", "Description"),
            ("STARS", "StarCount"),
            ("OFFICIAL", "IsOfficial"),
        ];
        format::list(args.get("format")?, &columns, &rows)?;
        Ok(0)
    }

    fn passes(found: &SearchResult, filters: &[(&str, &str)]) -> Result<bool> {
        for (key, value) in filters {
            let wrong = || usage(format!("invalid filter {key}={value}"));
            let fits = match *key {
                "is-official" => found.official == value.parse::<bool>().map_err(|_| wrong())?,
                "stars" => found.stars >= value.parse().map_err(|_| wrong())?,
                _ => return Err(usage(format!("invalid filter {key:?}"))),
            };
            if !fits {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn tags(args: &Args, name: &str) -> Result<u8> {
        let name: Reference = name.parse()?;
        let client = pull::client(args, name.domain())?;
        let familiar = name.familiar();
        let repository = match (name.tag(), name.digest()) {
            (Some(tag), None) => familiar.strip_suffix(&format!(":{tag}")).unwrap_or(&familiar),
            _ => return Err(usage(format!("{name:#}: a name without a digest"))),
        };
        let tags = client.tags(name.path())?;
        let rows: Vec<_> = tags.iter().map(|tag| json!({"Name": repository, "Tag": tag})).collect();
        format::list(args.get("format")?, &[("NAME", "Name"), ("TAG", "Tag")], &rows)?;
        Ok(0)
    }
}
