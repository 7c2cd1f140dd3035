//! What a registry has: its repositories and their tags, page by page (distribution-spec, "Listing Tags"; distribution's
//! `spec/api.md`, "Catalog"), and Docker Hub's search.
#![forbid(unsafe_code)]

use super::RegistryClient;
use super::auth::{self, Auth, Challenge, Wanted};
use super::credentials::{Credentials, DOCKER_HUB};
use super::http::{Answer, Client, Method, Request};
use super::session::address;
use super::url::Url;
use crate::error::{Error, ErrorKind, Result};
use crate::manifest::null_is_default;
use crate::reference::Reference;
use serde::Deserialize;
use std::collections::HashSet;

/// One page, and all of them: Docker Hub's largest repositories have some thousand tags.
const PAGE_MAX: u64 = 4 << 20;
const NAMES_MAX: usize = 1_000_000;
/// A page as large as registries give.
const PAGE: usize = 1000;
/// Some registries give 100 names at once whatever is asked for.
const PAGES_MAX: usize = 10_000;
/// Where docker.io is searched, and the most that it gives at once.
const HUB_SEARCH: &str = "index.docker.io";
const FOUND_MAX: usize = 100;

/// What a search has found: an image's name without its registry, and what is told about it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SearchResult {
    /// The repository as it stands in names, such as `debian` or `me/app`.
    pub name: String,
    /// What its owner says of it, as it came.
    pub description: String,
    /// How many people like it.
    pub stars: u64,
    /// Whether docker vouches for it.
    pub official: bool,
}

impl RegistryClient {
    /// Who to be for what the registry has. Without, it is who is logged in, when the registry asks.
    pub fn credentials(mut self, credentials: Credentials) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// All repositories of the registry (`_catalog`), as it has them. Not all registries tell: docker.io does not.
    ///
    /// # Errors
    /// `NotFound`, `PermissionDenied` or `Unsupported` where it does not tell; `InvalidData` for names that are none and for pages that
    /// lead nowhere; `TooLarge` for more than a million names or ten thousand pages; and those of the way there.
    pub fn repositories(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default, deserialize_with = "null_is_default")]
            repositories: Vec<String>,
        }
        let list = || {
            let mut talk = Talk::new(self, &self.host, "registry:catalog:*".to_owned())?;
            talk.scrubbed(|talk| {
                talk.pages("/v2/_catalog", |page: Page| page.repositories, |name| self.is_name(name))
            })
        };
        list().map_err(|error| self.during(error, "listing the repositories of"))
    }

    /// All tags of a repository, as the registry has them.
    ///
    /// # Errors
    /// `InvalidInput` for what is no repository, `NotFound` for one that is not there; as [`repositories`](Self::repositories).
    pub fn tags(&self, repository: &str) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default, deserialize_with = "null_is_default")]
            tags: Vec<String>,
        }
        let name = self.name(repository)?;
        let list = || {
            let path = name.path();
            let mut talk = Talk::new(self, &self.host, format!("repository:{path}:pull"))?;
            let is_tag = |tag: &str| name.with_tag(tag).is_ok();
            talk.scrubbed(|talk| talk.pages(&format!("/v2/{path}/tags/list"), |page: Page| page.tags, is_tag))
        };
        list().map_err(|error| self.during(error, &format!("listing the tags of {} at", name.path())))
    }

    /// Searches docker.io, or another registry that has docker's search API (`/v1/search`): at most `limit` results, 1 to 100.
    /// In a registry without, the repositories with the term in their names are found.
    ///
    /// # Errors
    /// `InvalidData` for an answer that is none, and as [`repositories`](Self::repositories).
    pub fn search(&self, term: &str, limit: usize) -> Result<Vec<SearchResult>> {
        let limit = limit.clamp(1, FOUND_MAX);
        let search = || match self.ask_search(term, limit)? {
            Some(found) => Ok(found),
            None => {
                let all = self.repositories()?.into_iter().filter(|name| name.contains(term)).take(limit);
                let alone =
                    |name| SearchResult { name, description: String::new(), stars: 0, official: false };
                Ok(all.map(alone).collect())
            }
        };
        search().map_err(|error: Error| self.during(error, "searching"))
    }

    /// `None`: it can't be searched.
    fn ask_search(&self, term: &str, limit: usize) -> Result<Option<Vec<SearchResult>>> {
        #[derive(Deserialize)]
        struct Found {
            #[serde(default, deserialize_with = "null_is_default")]
            results: Vec<One>,
        }
        #[derive(Deserialize)]
        struct One {
            name: String,
            #[serde(default, deserialize_with = "null_is_default")]
            description: String,
            #[serde(default, deserialize_with = "null_is_default")]
            star_count: u64,
            #[serde(default, deserialize_with = "null_is_default")]
            is_official: bool,
        }
        let host = if self.host == DOCKER_HUB { HUB_SEARCH } else { &self.host };
        let mut talk = Talk::new(self, host, "registry:catalog:*".to_owned())?;
        let url = talk.registry.with_target("/v1/search".to_owned());
        let url = url.with_parameter("q", term).with_parameter("n", &limit.to_string());
        talk.scrubbed(|talk| {
            let answer = talk.get(&url)?;
            match answer.status {
                200 => {}
                404 | 405 if self.host != DOCKER_HUB => return Ok(None),
                _ => return Err(talk.client.refused(answer)),
            }
            let (step, found) = read::<Found>(answer)?;
            let mut results = Vec::new();
            for one in found.results.into_iter().take(limit) {
                if !self.is_name(&one.name) {
                    return Err(no_name(&step, &one.name));
                }
                results.push(SearchResult {
                    name: one.name,
                    description: one.description,
                    stars: one.star_count,
                    official: one.is_official,
                });
            }
            Ok(Some(results))
        })
    }

    /// A repository of this registry.
    fn name(&self, repository: &str) -> Result<Reference> {
        let name = format!("{}/{repository}", self.host).parse::<Reference>()?;
        match name.domain() == self.host && name.tag() == Some("latest") && !repository.contains(':') {
            true => Ok(name),
            false => {
                Err(Error::new(ErrorKind::InvalidInput, format!("{repository:?} is no repository's name")))
            }
        }
    }

    fn is_name(&self, repository: &str) -> bool {
        self.name(repository).is_ok()
    }
}

fn no_name(step: &str, name: &str) -> Error {
    Error::new(ErrorKind::InvalidData, format!("{step}: {name:.100?} is no name"))
}

/// Requests that are of no one repository's manifests and blobs.
struct Talk<'a> {
    of: &'a RegistryClient,
    client: Client,
    registry: Url,
    wanted: Wanted,
    auth: Auth,
}

impl<'a> Talk<'a> {
    fn new(of: &'a RegistryClient, host: &str, scope: String) -> Result<Self> {
        let client = Client::of(&of.settings, host)?;
        let registry = address(&client, host)?;
        Ok(Self { of, client, registry, wanted: Wanted::scope(scope), auth: Auth::default() })
    }

    /// What goes wrong in it says no secret.
    fn scrubbed<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        work(self).map_err(|error| self.client.scrubbed(error))
    }

    /// With what authorises it, where the registry asks for that.
    fn get(&mut self, url: &Url) -> Result<Answer> {
        let mut again = true;
        loop {
            let headers = [("accept", "application/json".to_owned())];
            let authorization = self.auth.header();
            let request = Request { method: Method::Get, url, headers: &headers, authorization };
            let answer = self.client.send(&request)?;
            // What another host refuses after a redirect is not ours to answer.
            let asks = answer.status == 401 && answer.from.is_same_origin(url);
            let Some(challenge) = Challenge::of(&answer).filter(|_| asks && again) else {
                return Ok(answer);
            };
            drop(answer);
            let credentials = match &self.of.credentials {
                Some(credentials) => credentials.clone(),
                None => Credentials::kept(&self.of.host)?.unwrap_or_else(Credentials::anonymous),
            };
            self.auth = auth::meet(&self.client, &self.registry, challenge, &credentials, &self.wanted)?;
            again = false;
        }
    }

    /// The names of all pages.
    fn pages<P: for<'de> Deserialize<'de>>(
        &mut self,
        path: &str,
        names: impl Fn(P) -> Vec<String>,
        is_name: impl Fn(&str) -> bool,
    ) -> Result<Vec<String>> {
        let mut url = self.registry.with_target(path.to_owned()).with_parameter("n", &PAGE.to_string());
        let (mut all, mut known) = (Vec::new(), HashSet::new());
        for _ in 0..PAGES_MAX {
            let answer = self.get(&url)?;
            if answer.status != 200 {
                return Err(self.client.refused(answer));
            }
            let next = next_page(&answer, &url)?;
            let (step, page) = read::<P>(answer)?;
            let before = all.len();
            for name in names(page) {
                if !is_name(&name) {
                    return Err(no_name(&step, &name));
                }
                if known.insert(name.clone()) {
                    all.push(name);
                }
            }
            if all.len() > NAMES_MAX {
                return Err(Error::new(ErrorKind::TooLarge, format!("{step}: more than {NAMES_MAX} names")));
            }
            url = match next {
                None => return Ok(all),
                // Each page brings some, so they don't go in a circle.
                Some(_) if all.len() == before => {
                    let what = format!("{step}: a page with nothing new that leads to another");
                    return Err(Error::new(ErrorKind::InvalidData, what));
                }
                Some(next) => next,
            };
        }
        Err(Error::new(ErrorKind::TooLarge, format!("GET {url}: more than {PAGES_MAX} pages of names")))
    }
}

/// RFC 8288: `Link: </v2/_catalog?last=x&n=10>; rel="next"`.
fn next_page(answer: &Answer, url: &Url) -> Result<Option<Url>> {
    let links =
        answer.all("link").flat_map(|links| links.split('<').skip(1)).filter_map(|link| link.split_once('>'));
    let is_next = |parameters: &str| {
        parameters.split([';', ',']).any(|parameter| {
            let parameter = parameter.split_once('=').map(|(name, value)| (name.trim(), value.trim()));
            parameter.is_some_and(|(name, value)| name == "rel" && value.trim_matches('"') == "next")
        })
    };
    let Some((to, _)) = links.into_iter().find(|(_, parameters)| is_next(parameters)) else {
        return Ok(None);
    };
    let bad = |error: Error| error.during(format!("reading where {} goes on", answer.step));
    let next = url.join(to).map_err(bad)?;
    if next.host != url.host {
        // It would be sent what authorises.
        return Err(bad(Error::new(ErrorKind::InvalidData, format!("another host, {next}"))));
    }
    // A registry behind another server may not know how it is reached.
    Ok(Some(url.with_target(next.target().to_owned())))
}

/// An answer, and the request that it answers.
fn read<T: for<'de> Deserialize<'de>>(answer: Answer) -> Result<(String, T)> {
    let step = answer.step.clone();
    let body = answer.read(PAGE_MAX)?;
    match serde_json::from_slice(&body) {
        Ok(read) => Ok((step, read)),
        Err(error) => {
            let what = format!("{step}: not the JSON of a list, line {}", error.line());
            Err(Error::new(ErrorKind::InvalidData, what))
        }
    }
}
