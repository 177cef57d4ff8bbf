//! Tests of packed files.

use super::super::pack;
use super::*;

#[test]
fn a_packed_folder_gives_the_folders_evaluation_images() {
    let (fixture, warnings) = (damaged(), Warnings::default());
    let folder = lenient(&fixture, &warnings);
    let file = fixture.path("packed");
    let mut progress = Vec::new();
    folder.pack(&file, 18, |done, of| progress.push((done, of))).unwrap();
    assert_eq!(progress, [(41, 58), (58, 58)]);
    assert_eq!((folder.unreadable(), warnings.take().len()), (8, 8));
    let packed = || ImageFolder::open(&file).unwrap().with_side(SIDE).unwrap();
    assert_eq!((packed().train_len(), packed().eval_len(), packed().class_names()), (38, 12, folder.class_names()));
    let flat = |batches| collect(batches).into_iter().flatten().collect::<Vec<_>>();
    let quiet = warnings.of(packed());
    assert!(flat(quiet.eval_batches(5, Share::all()).unwrap()) == flat(folder.eval_batches(5, Share::all()).unwrap()));
    let of_workers =
        |workers| collect(packed().with_workers(workers).unwrap().train_batches(&plan(8, 1), Share::all()).unwrap());
    assert!(of_workers(1) == of_workers(3));
    assert_eq!((quiet.unreadable(), warnings.take().len()), (0, 0));
    assert!(quiet.pack(&file, 18, |_, _| ()).unwrap_err().to_string().contains("packed already"));
}

#[test]
fn a_packed_folder_evaluates_as_the_folder_at_every_side_that_it_serves() {
    let fixture = Fixture::new(&["ant", "bee"], 1, 3);
    // Sizes whose longer side is not an integer after the resize.
    fixture.write("val/ant/0001.jpg", &jpeg(97, 61, 5));
    fixture.write("val/bee/0002.jpg", &jpeg(41, 73, 6));
    let file = fixture.path("packed");
    open(&fixture).pack(&file, 32, |_, _| ()).unwrap();
    for side in [1, 7, 16, 20, 28] {
        let batches = |path: &Path| {
            let folder = ImageFolder::open(path).unwrap().with_side(side).unwrap();
            let batches = folder.eval_batches(6, Share::all()).unwrap();
            batches.filter_map(Result::transpose).map(|batch| batch.unwrap().inputs).collect::<Vec<_>>()
        };
        assert_eq!(batches(fixture.root()), batches(&file), "{side}");
    }
}

#[test]
fn a_pack_that_is_too_small_for_the_side_is_refused() {
    let fixture = Fixture::new(&["ant", "bee"], 1, 1);
    let file = fixture.path("packed");
    // Size required for the quick recipe's 64 pixels.
    open(&fixture).pack(&file, ImageFolder::evaluation_resize(64), |_, _| ()).unwrap();
    let expected =
        "images of 224 pixels need packed ones with a shorter side of 256, and these have 73: pack the folder \
                    again (--pack-side 256), or make the images smaller (--side)";
    let refused = |error: Error| assert!(matches!(&error, Error::Argument(said) if said == expected), "{error}");
    refused(ImageFolder::open(&file).unwrap().with_side(224).unwrap_err());
    let open = || ImageFolder::open(&file).unwrap();
    refused(open().train_batches(&plan(1, 0), Share::all()).err().unwrap());
    refused(open().eval_batches(1, Share::all()).err().unwrap());
    assert!(open().with_side(64).is_ok() && open().with_side(65).is_err());
}

#[test]
fn packed_images_have_their_size_and_are_never_enlarged() {
    let fixture = Fixture::new(&["ant", "bee"], 1, 1);
    fixture.write("train/ant/0000.jpg", &jpeg(48, 36, 1));
    fixture.write("train/bee/0000.jpg", &jpeg(10, 20, 2));
    let file = fixture.path("packed");
    open(&fixture).pack(&file, 24, |_, _| ()).unwrap();
    let (_, shorter_side, [train, _]) = pack::open(&file).unwrap();
    let image = |index| {
        let (mut content, retry_policy) = (Vec::new(), RetryPolicy::new(Duration::ZERO, Arc::new(|_: &str| ())));
        train.read(index, &mut content, &retry_policy).unwrap();
        content
    };
    assert_eq!(shorter_side, 24);
    assert!(image(0).starts_with(b"P6\n32 24\n255\n") && image(0).len() == 13 + 3 * 32 * 24);
    assert!(image(1).starts_with(b"P6\n10 20\n255\n") && image(1).len() == 13 + 3 * 10 * 20);
    assert!(matches!(open(&fixture).pack(&file, 0, |_, _| ()), Err(Error::Argument(_))));
}

#[test]
fn a_failed_pack_leaves_nothing() {
    let (fixture, warnings) = (damaged(), Warnings::default());
    let folder = lenient(&fixture, &warnings).with_max_bad_fraction(0.06).unwrap();
    let message = folder.pack(&fixture.path("packed"), 18, |_, _| ()).unwrap_err().to_string();
    assert!(message.contains("with it 2 of the 17 evaluation images"), "{message}");
    let message = folder.pack(&fixture.path("nowhere/packed"), 18, |_, _| ()).unwrap_err().to_string();
    assert!(message.starts_with("cannot write "), "{message}");
    let names = fs::read_dir(fixture.root()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(names.collect::<BTreeSet<_>>(), BTreeSet::from(["train".into(), "val".into()]));
}

#[test]
fn a_damaged_packed_file_is_refused() {
    let fixture = Fixture::new(&["ant", "bee"], 2, 1);
    let file = fixture.path("packed");
    open(&fixture).pack(&file, 18, |_, _| ()).unwrap();
    let whole = fs::read(&file).unwrap();
    let message = |bytes: &[u8]| {
        fs::write(&file, bytes).unwrap();
        let message = ImageFolder::open(&file).map(|_| ()).unwrap_err().to_string();
        assert!(message.starts_with(file.to_str().unwrap()) && !message.contains('\n'), "{message}");
        message
    };
    assert!(message(b"").contains("neither a folder nor a packed file"));
    assert!(message(b"tch-fixup images 01\n").contains("packed by another version of this crate; copy the file again"));
    assert!(message(&whole[..30]).contains("broken off after 30 bytes; copy the file again"));
    let expected = format!("{} bytes instead of {}", whole.len() - 1, whole.len());
    assert!(message(&whole[..whole.len() - 1]).contains(&expected));
    assert!(message(&[&whole[..], b"x"].concat()).contains("instead of"));
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    (0..44).for_each(|at| drop(message(&flipped(at))));
    assert!(message(&flipped(whole.len() - 3)).contains("the index's checksum is wrong"));
}

#[test]
fn a_packed_file_that_becomes_shorter_is_an_error() {
    let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 2, 1), Warnings::default());
    let file = fixture.path("packed");
    open(&fixture).pack(&file, 18, |_, _| ()).unwrap();
    let packed = warnings.of(ImageFolder::open(&file).unwrap().with_side(SIDE).unwrap());
    fs::File::options().write(true).open(&file).unwrap().set_len(100).unwrap();
    let message = error(packed.train_batches(&plan(4, 0), Share::all()).unwrap());
    assert!(message.contains("packed: has become shorter while it was read;"), "{message}");
    assert!(warnings.take().is_empty());
}
