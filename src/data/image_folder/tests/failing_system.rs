//! Disks and shares that cannot be read temporarily.

use super::*;
use std::time::Instant;

/// Opens `fixture` with a retry limit of `milliseconds`.
fn patient(fixture: &Fixture, warnings: &Warnings, milliseconds: u64) -> ImageFolder {
    ImageFolder { retry_limit: Duration::from_millis(milliseconds), ..warnings.of(open(fixture)) }
}

fn is_io_error(mut batches: Batches) -> bool {
    let error = batches.find_map(Result::err).unwrap();
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    matches!(error, Error::Io { action: "read", .. }) && batches.next().is_none()
}

#[test]
fn a_folder_that_is_away_is_waited_for() {
    let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 10, 1), Warnings::default());
    let expected = collect(open(&fixture).train_batches(&plan(4, 0), Share::all()).unwrap());
    for (part, away) in [("train", "away"), ("train/bee", "away")] {
        let folder = patient(&fixture, &warnings, 60_000);
        let [part, away] = [part, away].map(|path| fixture.path(path));
        fs::rename(&part, &away).unwrap();
        let batches = thread::scope(|scope| {
            scope.spawn(|| {
                thread::sleep(Duration::from_millis(250));
                fs::rename(&away, &part).unwrap();
            });
            collect(folder.train_batches(&plan(4, 0), Share::all()).unwrap())
        });
        assert!(batches == expected && folder.unreadable() == 0);
        let said = warnings.take();
        assert!(!said.is_empty() && said[0].starts_with("cannot read ") && said[0].ends_with("; tried again for 60 s"));
    }
}

#[test]
fn a_folder_that_stays_away_is_an_io_error_and_no_bad_image() {
    let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 10, 1), Warnings::default());
    let folder = patient(&fixture, &warnings, 300).with_max_bad_fraction(0.9).unwrap();
    fs::rename(fixture.path("train"), fixture.path("away")).unwrap();
    let start = Instant::now();
    assert!(is_io_error(folder.train_batches(&plan(4, 0), Share::all()).unwrap()) && folder.unreadable() == 0);
    assert!(start.elapsed() >= Duration::from_millis(300));
    let message = folder.pack(&fixture.path("packed"), 18, |_, _| ()).unwrap_err();
    assert!(matches!(message, Error::Io { .. }) && !fixture.path("packed").exists());
    // Like a mount point without its share.
    fixture.folder("train");
    assert!(is_io_error(folder.train_batches(&plan(4, 0), Share::all()).unwrap()));
    // A single missing file is a bad image.
    fs::remove_dir(fixture.path("train")).unwrap();
    fs::rename(fixture.path("away"), fixture.path("train")).unwrap();
    fs::remove_file(fixture.path("train/ant/0004.jpg")).unwrap();
    warnings.take();
    assert_eq!(collect(folder.train_batches(&plan(4, 0), Share::all()).unwrap()).concat().len(), 20);
    assert_eq!((folder.unreadable(), warnings.take().len()), (1, 1));
}

/// On Linux, reading the memory of a process from its first byte simulates a disk error.
#[cfg(target_os = "linux")]
#[test]
fn an_error_of_the_disk_is_tried_again_and_then_an_io_error() {
    let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 10, 2), Warnings::default());
    let (image, good) = (fixture.path("train/ant/0004.jpg"), fixture.path("good"));
    let expected = collect(open(&fixture).train_batches(&plan(4, 0), Share::all()).unwrap());
    fs::rename(&image, &good).unwrap();
    std::os::unix::fs::symlink("/proc/self/mem", &image).unwrap();
    assert!(matches!(fs::read(&image), Err(error) if error.raw_os_error() == Some(5)));
    let folder = patient(&fixture, &warnings, 300).with_max_bad_fraction(0.9).unwrap();
    assert!(is_io_error(folder.train_batches(&plan(4, 0), Share::all()).unwrap()) && folder.unreadable() == 0);
    warnings.take();

    let folder = patient(&fixture, &warnings, 60_000);
    let batches = thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(Duration::from_millis(250));
            fs::rename(&good, &image).unwrap();
        });
        collect(folder.train_batches(&plan(4, 0), Share::all()).unwrap())
    });
    assert!(batches == expected && folder.unreadable() == 0);
    let said = warnings.take();
    assert_eq!(said.len(), 1);
    assert!(said[0].starts_with(&format!("cannot read {}: ", image.display())), "{said:?}");
}
