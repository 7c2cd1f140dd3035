//! Logging in and out: verified before anything is kept, and kept where docker, podman and skopeo find it.

use super::auth::*;
use super::cli::*;
use super::common::distribution::Distribution;
use super::peers::*;
use super::*;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn with_basic() -> Server {
    let content = content(&["one"]);
    Server::start(move |request| match request.header("authorization") {
        Some(BASIC) if request.path == "/v2/" => Reply::new(200, "{}"),
        Some(BASIC) => content.reply(request),
        _ => asks("Basic realm=\"registry\""),
    })
}

fn json_of(path: &Path) -> serde_json::Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn what_the_registry_knows_is_kept_until_the_logout() {
    if !is_own_process("login::what_the_registry_knows_is_kept_until_the_logout") {
        return;
    }
    let server = with_basic();
    let dir = tempfile::tempdir().unwrap();
    set("HOME", dir.path());
    let file = dir.path().join(".docker/config.json");
    let registry = RegistryClient::new(&server.authority()).unwrap();
    assert!(!registry.logout().unwrap());
    for (credentials, kind) in [
        (Credentials::basic("me", "wrong-password-here"), ErrorKind::PermissionDenied),
        (Credentials::identity_token("wrong-password-here"), ErrorKind::PermissionDenied),
        (Credentials::anonymous(), ErrorKind::InvalidInput),
        (Credentials::basic("m:e", "wrong-password-here"), ErrorKind::InvalidInput),
        (Credentials::basic("me", ""), ErrorKind::InvalidInput),
    ] {
        let error = registry.login(&credentials).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(!format!("{error} {error:?}").contains("wrong-password"));
        assert!(!file.parent().unwrap().exists(), "{credentials:?}");
    }
    assert_eq!(registry.logged_in().unwrap(), None);

    assert_eq!(registry.login(&me()).unwrap(), CredentialsPlace::File(file.clone()));
    let (host, auth) = (server.authority(), &BASIC[6..]);
    assert_eq!(json_of(&file), json!({"auths": {(&host): {"auth": auth}}}));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(registry.logged_in().unwrap(), Some(me()));
    Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap();

    // What else is there stays; another spelling of the same registry does not.
    let old = format!("https://{host}/v1/");
    let others = json!({"HttpHeaders": {"a": "b"}, "auths": {(&old): {"auth": "bWU6b2xk"}, "other": {"auth": "eDp5"}}});
    fs::write(&file, others.to_string()).unwrap();
    registry.login(&me()).unwrap();
    let mut want = others.clone();
    want["auths"] = json!({"other": {"auth": "eDp5"}, (&host): {"auth": auth}});
    assert_eq!(json_of(&file), want);
    assert!(registry.logout().unwrap());
    assert!(!registry.logout().unwrap());
    want["auths"] = json!({"other": {"auth": "eDp5"}});
    assert_eq!(json_of(&file), want);
    let error = Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);

    // A file that is named need not be there.
    let named = dir.path().join("below/auth.json");
    set("REGISTRY_AUTH_FILE", &named);
    assert_eq!(registry.logged_in().unwrap(), None);
    assert_eq!(registry.login(&me()).unwrap(), CredentialsPlace::File(named.clone()));
    assert_eq!(json_of(&named)["auths"].as_object().unwrap().len(), 1);
}

#[test]
fn a_token_to_stay_is_kept_in_place_of_the_password() {
    if !is_own_process("login::a_token_to_stay_is_kept_in_place_of_the_password") {
        return;
    }
    const STAYS: &str = "token-that-stays";
    let content = content(&["one"]);
    let server = Server::start(move |request| {
        let authorization = request.header("authorization");
        if request.path.starts_with("/token") {
            let token = json!({"token": TOKEN, "refresh_token": STAYS}).to_string();
            return match (request.method.as_str(), authorization) {
                ("GET", Some(BASIC)) if request.path.contains("offline_token=true") => Reply::new(200, token),
                ("POST", None) if request.body.contains(&format!("&refresh_token={STAYS}&")) => {
                    Reply::new(200, token)
                }
                _ => Reply::new(401, ""),
            };
        }
        if authorization != Some(&format!("Bearer {TOKEN}")) {
            let realm = format!("http://{}/token", request.header("host").unwrap());
            return asks(&format!(r#"Bearer realm="{realm}",service="registry""#));
        }
        if request.path == "/v2/" { Reply::new(200, "{}") } else { content.reply(request) }
    });
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    set("REGISTRY_AUTH_FILE", &file);
    let registry = RegistryClient::new(&server.authority()).unwrap();
    let wrong = registry.login(&Credentials::basic("me", "wrong-password-here")).unwrap_err();
    assert_eq!((wrong.kind(), file.exists()), (ErrorKind::PermissionDenied, false), "{wrong}");
    registry.login(&me()).unwrap();
    let entry = &json_of(&file)["auths"][server.authority()];
    assert_eq!(entry["identitytoken"], STAYS);
    assert!(!fs::read_to_string(&file).unwrap().contains(&BASIC[6..]));
    Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap();
    // Once more with what is kept.
    let kept = registry.logged_in().unwrap().unwrap();
    assert_eq!(kept, Credentials::identity_token(STAYS));
    registry.login(&kept).unwrap();
    let log = server.take_log();
    let sent = log.iter().filter(|request| request.header("authorization") == Some(BASIC));
    assert!(sent.clone().all(|request| request.path.starts_with("/token?")) && sent.count() == 1);
}

#[test]
fn what_is_no_registry_and_one_that_asks_nobody() {
    if !is_own_process("login::what_is_no_registry_and_one_that_asks_nobody") {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    set("REGISTRY_AUTH_FILE", &file);
    let login = |server: &Server| RegistryClient::new(&server.authority()).unwrap().retries(0).login(&me());
    // None of these hears the password, or has it kept.
    let elsewhere = Server::start(|_| asks("Basic realm=\"steal\""));
    let there = format!("http://localhost:{}/v2/", elsewhere.authority().rsplit(':').next().unwrap());
    for (reply, kind) in [
        ((404, None), ErrorKind::NotFound),
        ((500, None), ErrorKind::Network),
        ((403, None), ErrorKind::PermissionDenied),
        ((401, Some(("WWW-Authenticate", "Negotiate".to_owned()))), ErrorKind::PermissionDenied),
        ((307, Some(("Location", there))), ErrorKind::PermissionDenied),
        (
            (401, Some(("WWW-Authenticate", "Bearer realm=\"https://thief.example/\"".into()))),
            ErrorKind::InvalidData,
        ),
    ] {
        let server = Server::start(move |_| {
            let (status, header) = &reply;
            let plain = Reply::new(*status, "");
            header.iter().fold(plain, |plain, (name, value)| plain.with(name, value.clone()))
        });
        let error = login(&server).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        let heard = [server.take_log(), elsewhere.take_log()].concat();
        assert!(heard.iter().all(|request| request.header("authorization").is_none()), "{heard:?}");
        assert!(!file.exists());
    }
    // One that lets everybody in, and one that does not when somebody comes with a wrong name.
    let open = Server::start(|_| Reply::new(200, "{}"));
    let choosy = Server::start(|request| match request.header("authorization") {
        Some(_) => Reply::new(401, ""),
        None => Reply::new(200, "{}"),
    });
    assert_eq!(login(&choosy).unwrap_err().kind(), ErrorKind::PermissionDenied);
    assert!(!file.exists());
    login(&open).unwrap();
    assert_eq!(json_of(&file)["auths"].as_object().unwrap().len(), 1);
}

/// A program as docker-credential-helpers has them: one file for each registry in its directory, and a list of how it was called.
fn helper(dir: &Path, name: &str) -> PathBuf {
    let kept = dir.join(name);
    fs::create_dir(&kept).unwrap();
    let script = format!(
        r#"#!/bin/sh
cd {}
echo "$*" >> calls
case $1 in
store) cat > new; mv new "$(sed 's/.*"ServerURL":"\([^"]*\)".*/\1/; s|/|_|g' new)" ;;
get|erase)
    key=$(sed 's|/|_|g')
    [ -f "$key" ] || {{ echo "credentials not found in native keychain"; exit 1; }}
    if [ $1 = get ]; then cat "$key"; else rm "$key"; fi ;;
esac
"#,
        kept.display()
    );
    let program = dir.join(format!("docker-credential-{name}"));
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    kept
}

#[test]
fn a_helper_keeps_what_it_is_told_and_the_file_does_not() {
    if !is_own_process("login::a_helper_keeps_what_it_is_told_and_the_file_does_not") {
        return;
    }
    let server = with_basic();
    let host = server.authority();
    let dir = tempfile::tempdir().unwrap();
    let kept = helper(dir.path(), "test");
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    set("PATH", path.as_ref());
    let file = dir.path().join("config.json");
    set("DOCKER_CONFIG", dir.path());
    let registry = RegistryClient::new(&host).unwrap();
    for config in [
        json!({"credsStore": "test", "auths": {(&host): {"auth": "bWU6b2xk"}}}),
        json!({"credHelpers": {(&host): "test"}, "credsStore": "none-of-this-name"}),
    ] {
        fs::write(&file, config.to_string()).unwrap();
        registry.login(&Credentials::basic("me", "wrong-password-here")).unwrap_err();
        assert!(!kept.join("calls").exists(), "it was told before the registry was asked");
        assert_eq!(registry.login(&me()).unwrap(), CredentialsPlace::Helper("test".into()));
        let told = json_of(&kept.join(&host));
        assert_eq!(told, json!({"ServerURL": host, "Username": "me", "Secret": PASSWORD}));
        let mut want = config.clone();
        want["auths"] = json!({(&host): {}});
        assert_eq!(json_of(&file), want);
        assert_eq!(registry.logged_in().unwrap(), Some(me()));
        Image::pull(&Store::temp().unwrap(), &server.name(NAME)).unwrap();
        assert!(registry.logout().unwrap());
        assert!(!kept.join(&host).exists());
        assert!(!registry.logout().unwrap());
        assert_eq!(registry.logged_in().unwrap(), None);
        assert_eq!(json_of(&file)["auths"], json!({}));
        let calls = fs::read_to_string(kept.join("calls")).unwrap();
        assert_eq!(calls, "store\nget\nget\nerase\nerase\nget\n");
        fs::remove_file(kept.join("calls")).unwrap();
    }
    // docker.io is what docker calls it.
    fs::write(&file, json!({"credsStore": "test"}).to_string()).unwrap();
    fs::write(
        kept.join("https:__index.docker.io_v1_"),
        r#"{"ServerURL":"x","Username":"<token>","Secret":"t"}"#,
    )
    .unwrap();
    let hub = RegistryClient::new("docker.io").unwrap();
    assert_eq!(hub.logged_in().unwrap(), Some(Credentials::identity_token("t")));
    assert!(hub.logout().unwrap());

    // One that fails: its words, without the secret, and the file as it was.
    let program = dir.path().join("docker-credential-test");
    fs::write(&program, "#!/bin/sh\necho locked: $(cat)\nexit 1\n").unwrap();
    let before = fs::read(&file).unwrap();
    for error in [registry.login(&me()).unwrap_err(), registry.logout().unwrap_err()] {
        let text = format!("{error} {error:?}");
        assert!(text.contains("locked: ") && !text.contains(PASSWORD), "{text}");
        assert!(error.kind() == ErrorKind::PermissionDenied && error.remedy().is_some());
    }
    // One that is not there.
    fs::remove_file(&program).unwrap();
    // Where PATH has a directory that this user may not enter, that would be the error.
    set("PATH", dir.path());
    let error = registry.login(&me()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    assert_eq!(fs::read(&file).unwrap(), before);
}

/// A command line with a file for credentials.
fn command(w: &World, file: &Path, args: &[&str]) -> Command {
    let mut command = w.command(args);
    command.env("REGISTRY_AUTH_FILE", file).stdin(Stdio::null());
    command
}

#[track_caller]
fn login(w: &World, file: &Path, args: &[&str], password: &str) -> Done {
    let mut command = command(w, file, args);
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(password.as_bytes()).unwrap();
    std::io::Seek::rewind(&mut input).unwrap();
    command.stdin(input);
    Done::of(command)
}

#[test]
fn login_and_logout_on_the_command_line() {
    let server = with_basic();
    let (w, host) = (World::new(), server.authority());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    let with_stdin = ["login", "-u", "me", "--password-stdin", &host];
    let wrong = login(&w, &file, &with_stdin, "wrong-password-here\n");
    assert_eq!((wrong.code, wrong.out.as_str(), file.exists()), (1, "", false), "{}", wrong.err);
    assert!(wrong.err.contains("401") && !wrong.err.contains("wrong-password"), "{}", wrong.err);
    for (args, says) in [
        (&["login", "--password-stdin", &host][..], "Must provide --username with --password-stdin"),
        (&["login", "-u", "me", &host], "non TTY"),
        (&["login", &host], "non TTY"),
        (&["login", "-u", "me", "--password-stdin", "no-host/x"], "not a host"),
    ] {
        let done = login(&w, &file, args, "");
        assert!(done.code == 1 && done.err.contains(says) && !file.exists(), "{args:?} {}", done.err);
    }
    let no_flag = w.run(&["login", "-p", "hunter22", &host]);
    assert!(no_flag.code == 125 && !no_flag.err.contains("hunter22"), "{}", no_flag.err);

    for end in ["", "\n", "\r\n"] {
        let done = login(&w, &file, &with_stdin, &format!("{PASSWORD}{end}"));
        assert_eq!((done.code, done.out.as_str()), (0, "Login Succeeded\n"), "{}", done.err);
        assert!(done.err.contains(&format!("unencrypted in '{}'", file.display())), "{}", done.err);
        assert!(!done.err.contains(PASSWORD));
    }
    let again = Done::of(command(&w, &file, &["login", &host]));
    assert_eq!((again.code, again.out.as_str()), (0, "Login Succeeded\n"), "{}", again.err);
    let pulled = Done::of(command(&w, &file, &["pull", "-q", &server.name(NAME)]));
    assert_eq!(pulled.code, 0, "{}", pulled.err);
    for says in ["Removing login credentials for", "Not logged in to"] {
        let done = Done::of(command(&w, &file, &["logout", &host]));
        assert_eq!((done.code, done.out), (0, format!("{says} {host}\n")), "{}", done.err);
    }
    assert!(!fs::read_to_string(&file).unwrap().contains(&BASIC[6..]));
}

#[test]
fn on_a_terminal_the_password_is_asked_for_and_not_shown() {
    let server = with_basic();
    let (w, host) = (World::new(), server.authority());
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("auth.json");
    for (typed, code) in
        [(format!("{PASSWORD}\n"), 0), ("typed-in-part\u{3}".to_owned(), 130), ("\u{4}".into(), 1)]
    {
        let (master, slave) = terminal(80);
        let mut command = command(&w, &file, &["login", &host]);
        let slaves = || slave.try_clone().unwrap();
        command.stdin(slaves()).stdout(slaves()).stderr(slaves());
        let mut child = command.spawn().unwrap();
        drop((command, slave));
        let mut shown = String::new();
        let until = |shown: &mut String, what: Option<&str>| {
            let mut buffer = [0; 4096];
            while what.is_none_or(|what| !shown.contains(what)) {
                match (&master).read(&mut buffer) {
                    // Nobody has the other side any more.
                    Ok(0) | Err(_) => return,
                    Ok(n) => shown.push_str(&String::from_utf8_lossy(&buffer[..n])),
                }
            }
        };
        until(&mut shown, Some("Username: "));
        let mut to = &master;
        to.write_all(b"me\n").unwrap();
        until(&mut shown, Some("Password: "));
        to.write_all(typed.as_bytes()).unwrap();
        until(&mut shown, None);
        assert_eq!(child.wait().unwrap().code(), Some(code), "{shown}");
        assert!(shown.contains("me\r\n") && !shown.contains("typed") && !shown.contains(PASSWORD), "{shown}");
        assert_eq!(shown.contains("Login Succeeded"), code == 0, "{shown}");
        if code == 0 {
            fs::remove_file(&file).unwrap();
        }
    }
}

#[test]
#[ignore = "needs docker-registry, htpasswd, skopeo and podman: run with --include-ignored"]
fn skopeo_and_podman_and_coracle_are_logged_in_by_each_other() {
    let (w, dir) = (World::new(), tempfile::tempdir().unwrap());
    let registry = Distribution::start(&with_password(dir.path()));
    let (host, image) = (&registry.authority, Fixture::new(&["one"]));
    let name = format!("{host}/{NAME}");
    push(&archive(dir.path(), &image), &format!("docker://{name}"), &["--dest-creds", "me:secret-word"]);
    let at = |name: &str| dir.path().join(name);
    let ours = at("ours.json");
    let with_stdin = ["login", "--username=me", "--password-stdin", host];
    assert_eq!(login(&w, &ours, &with_stdin, "another-word").code, 1);
    assert!(!ours.exists());
    let done = login(&w, &ours, &with_stdin, "secret-word");
    assert_eq!(done.code, 0, "{}", done.err);
    let file = ours.to_str().unwrap();
    let from = format!("docker://{name}");
    peer("skopeo", ["inspect", "--authfile", file, "--tls-verify=false", &from]);
    assert_eq!(peer("podman", ["login", "--authfile", file, "--get-login", host]), "me\n");
    peer("skopeo", ["logout", "--authfile", file, host]);
    assert!(!fs::read_to_string(&ours).unwrap().contains(host.as_str()));

    for program in ["skopeo", "podman"] {
        let theirs = at(program);
        let file = theirs.to_str().unwrap();
        let args = ["login", "--authfile", file, "--tls-verify=false", "-u", "me", "-p", "secret-word", host];
        peer(program, args);
        let pulled = Done::of(command(&w, &theirs, &["pull", "-q", &name]));
        assert_eq!(pulled.code, 0, "{program}: {}", pulled.err);
        let done = Done::of(command(&w, &theirs, &["logout", host]));
        assert_eq!(done.out, format!("Removing login credentials for {host}\n"), "{program}: {}", done.err);
        let refused = Done::of(command(&w, &theirs, &["pull", "-q", &name]));
        assert_eq!(refused.code, 1, "{program}");
    }
}
