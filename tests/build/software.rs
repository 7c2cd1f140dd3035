//! The Dockerfiles of everyday tutorials, on bases that Debian's own tool has made.

use super::*;
use coracle::{Container, Import, Network};
use std::io::{Read, Write};
use std::time::Duration;

/// An image of a Debian with these packages.
fn debian(store: &Store, name: &str, packages: &str, links: &[(&str, &str)]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("debian.tar");
    let mut command = std::process::Command::new("mmdebstrap");
    command.args(["--quiet", "--variant=minbase"]);
    if !packages.is_empty() {
        command.arg(format!("--include={packages}"));
    }
    for (link, target) in links {
        command.arg(format!("--customize-hook=ln -s {target} \"$1{link}\""));
    }
    // Its own user namespace has to get there.
    let status = command.arg("bookworm").arg(&path).env("TMPDIR", "/tmp").status();
    let status = status.unwrap_or_else(|error| panic!("mmdebstrap: {error}; this test needs it"));
    assert!(status.success(), "{status}");
    let import = Import::new().name(name).cmd(["bash"]);
    import
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .path(store, path)
        .unwrap();
}

#[track_caller]
fn built(build: &Build, store: &Store) -> Image {
    build
        .run(store)
        .unwrap_or_else(|error| panic!("{error}\n{}{}", text(error.stdout()), text(error.stderr())))
}

/// What a server in a container answers.
fn fetched(image: &Image, port: u16, path: &str) -> String {
    let server = Container::builder(image).init(true).start().unwrap();
    let mut answer = String::new();
    eventually("the server answers", || {
        let stream = server.connect(port).ok();
        let asked = stream.and_then(|mut stream| {
            write!(stream, "GET {path} HTTP/1.0\r\nHost: here\r\n\r\n").ok()?;
            answer.clear();
            stream.read_to_string(&mut answer).ok()
        });
        assert!(
            server.state() == coracle::State::Running,
            "{}",
            text(&server.logs(coracle::Stream::Stderr).unwrap())
        );
        asked.is_some_and(|bytes| bytes > 0)
    });
    server.stop(Duration::from_secs(10)).unwrap();
    server.remove().unwrap();
    answer
}

#[test]
#[ignore = "needs mmdebstrap and Debian's archive: run with --include-ignored"]
fn a_server_that_apt_installs() {
    let store = Store::temp().unwrap();
    debian(&store, "debian:bookworm-slim", "", &[]);
    let context = context(&[
        (
            "Dockerfile",
            "\
FROM debian:bookworm-slim
ENV DEBIAN_FRONTEND=noninteractive
RUN --mount=type=cache,target=/var/cache/apt,sharing=locked \\
    --mount=type=cache,target=/var/lib/apt,sharing=locked \\
    apt-get update && apt-get install -y --no-install-recommends nginx-light
COPY site/ /var/www/html/
COPY nginx.conf /etc/nginx/nginx.conf
EXPOSE 80
STOPSIGNAL SIGQUIT
HEALTHCHECK --interval=30s CMD test -e /run/nginx.pid
CMD [\"nginx\", \"-g\", \"daemon off;\"]
",
        ),
        ("site/index.html", "served from an image\n"),
        (
            "nginx.conf",
            "events {}\nhttp { server { listen 80; root /var/www/html; } access_log off; error_log stderr; }\n",
        ),
    ]);
    let caches = tempfile::tempdir().unwrap();
    let build = Build::context(context.path()).cache_dir(caches.path()).tag("site:1");
    let image = built(&build, &store);
    assert!(fetched(&image, 80, "/").ends_with("\r\n\r\nserved from an image\n"));
    // What apt keeps is the caller's, and no part of the image.
    assert_eq!(count(caches.path()), 2);
    let left = say(&sh(&image, "find /var/lib/apt/lists /var/cache/apt -type f"));
    assert!(!left.contains("_Packages") && !left.contains("nginx"), "{left}");
    // Another page: the packages are not installed again.
    write(context.path(), "site/index.html", "another page\n");
    let (again, told) = told::watched(build, &store);
    assert_eq!(told::done(&told).first().map(|step| step.split(' ').next().unwrap()), Some("COPY"));
    assert!(fetched(&again.unwrap(), 80, "/").ends_with("another page\n"));
    assert!(store.verify().unwrap().is_sound());
}

const PYTHON: &str = "\
FROM python:3.11-slim AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
COPY requirements.txt .
COPY greeting/ greeting/
RUN python -m venv --system-site-packages /venv && \\
    /venv/bin/pip install --no-index --no-build-isolation --no-cache-dir -r requirements.txt

FROM python:3.11-slim
ENV PYTHONUNBUFFERED=1 PATH=/venv/bin:$PATH
RUN useradd --create-home --uid 1000 app
WORKDIR /app
COPY --from=build /venv /venv
COPY --chown=app:app . .
USER app
EXPOSE 8000
CMD [\"python\", \"app.py\"]
";
const APP: &str = "\
import http.server, greeting, os
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f'{greeting.text()} from {os.getuid()}\\n'.encode())
http.server.HTTPServer(('', 8000), Handler).serve_forever()
";

#[test]
#[ignore = "needs mmdebstrap and Debian's archive: run with --include-ignored"]
fn the_python_tutorial() {
    let store = Store::temp().unwrap();
    let packages = "python3,python3-venv,python3-pip,python3-setuptools,python3-wheel";
    debian(&store, "python:3.11-slim", packages, &[("/usr/local/bin/python", "/usr/bin/python3")]);
    let context = context(&[
        ("Dockerfile", PYTHON),
        (".dockerignore", "__pycache__\n*.pyc\n.git\n"),
        ("requirements.txt", "./greeting\n"),
        (
            "greeting/setup.py",
            "from setuptools import setup\nsetup(name='greeting', version='1', py_modules=['greeting'])\n",
        ),
        ("greeting/greeting.py", "def text():\n    return 'ahoy'\n"),
        ("app.py", APP),
        ("__pycache__/app.pyc", "left out"),
    ]);
    let build = Build::context(context.path());
    let image = built(&build, &store);
    assert!(fetched(&image, 8000, "/").ends_with("ahoy from 1000\n"));
    assert_eq!(say(&sh(&image, "ls")), "Dockerfile\napp.py\ngreeting\nrequirements.txt");
    // A changed source: nothing is installed again.
    write(context.path(), "app.py", &APP.replace("from {", "still {"));
    let (again, told) = told::watched(build, &store);
    assert!(told::done(&told).iter().all(|step| !step.starts_with("RUN")), "{:?}", told::done(&told));
    assert!(fetched(&again.unwrap(), 8000, "/").ends_with("ahoy still 1000\n"));
}

const NODE: &str = "\
# syntax=docker/dockerfile:1
ARG NODE_VERSION=18
FROM node:${NODE_VERSION}-slim AS base
WORKDIR /usr/src/app

FROM base AS deps
RUN --mount=type=bind,source=package.json,target=package.json \\
    --mount=type=bind,source=lib,target=lib \\
    --mount=type=cache,target=/root/.npm \\
    npm install --omit=dev --offline --install-links --no-audit --no-fund --no-package-lock

FROM deps AS build
COPY . .
RUN npm run build

FROM base AS final
ENV NODE_ENV=production
USER node
COPY package.json .
COPY --from=deps /usr/src/app/node_modules ./node_modules
COPY --from=build /usr/src/app/dist ./dist
EXPOSE 3000
CMD [\"node\", \"dist/server.js\"]
";
const PACKAGE: &str = r#"{"name": "app", "version": "1.0.0", "scripts": {"build": "mkdir dist && sed s/NAME/world/ src/server.js > dist/server.js"},
"dependencies": {"greeting": "file:lib"}}"#;
const SERVER: &str = "\
const greeting = require('greeting');
require('http').createServer((_, answer) => answer.end(`${greeting} NAME, uid ${process.getuid()}, ${process.env.NODE_ENV}\\n`)).listen(3000);
";

#[test]
#[ignore = "needs mmdebstrap and Debian's archive: run with --include-ignored"]
fn the_node_tutorial() {
    let store = Store::temp().unwrap();
    debian(&store, "node-without-user", "nodejs,npm", &[]);
    let with_user =
        Build::empty().dockerfile_text("FROM node-without-user\nRUN useradd --create-home --uid 1000 node\n");
    built(&with_user.tag("node:18-slim"), &store);
    let context = context(&[
        ("Dockerfile", NODE),
        (".dockerignore", "node_modules\ndist\nnpm-debug.log\n"),
        ("package.json", PACKAGE),
        ("lib/package.json", r#"{"name": "greeting", "version": "1.0.0", "main": "index.js"}"#),
        ("lib/index.js", "module.exports = 'hello';\n"),
        ("src/server.js", SERVER),
        ("node_modules/greeting/index.js", "module.exports = 'not this';\n"),
    ]);
    let build = Build::context(context.path()).network(Network::none());
    let image = built(&build, &store);
    assert!(fetched(&image, 3000, "/").ends_with("hello world, uid 1000, production\n"));
    assert_eq!(say(&sh(&image, "ls")), "dist\nnode_modules\npackage.json");
    write(context.path(), "src/server.js", &SERVER.replace("NAME,", "NAME again,"));
    let (again, told) = told::watched(build, &store);
    let done = told::done(&told);
    assert!(
        done.iter().filter(|step| step.starts_with("RUN")).all(|step| step.contains("run build")),
        "{done:?}"
    );
    assert!(fetched(&again.unwrap(), 3000, "/").ends_with("hello world again, uid 1000, production\n"));
}
