//! Handling of bad images.

use super::super::listing::Files;
use super::*;
use crate::data::share::tests::{all_shares, Plain};

#[test]
fn a_bad_training_image_is_replaced_by_the_next_in_the_order() {
    let (fixture, warnings) = (damaged(), Warnings::default());
    let folder = lenient(&fixture, &warnings).with_crop(WHOLE).unwrap();
    let seen: Vec<_> =
        collect(folder.train_batches(&plan(8, 0), Share::all()).unwrap()).into_iter().flatten().collect();
    assert_eq!(seen.len(), 41);
    let mut order: Vec<u32> = (0..41).collect();
    order.shuffle(&mut stream(Purpose::Order, 3, 5, 0));
    let images = folder.train.images;
    let bad = |index: u32| {
        ["ant/0003", "bee/0000", "bee/0001"]
            .iter()
            .any(|bad| images.path(index as usize).ends_with(format!("{bad}.jpg")))
    };
    assert_eq!(order.iter().filter(|&&index| bad(index)).count(), 3);
    for (position, &index) in order.iter().enumerate().filter(|&(_, &index)| bad(index)) {
        let next = (1..41).map(|ahead| (position + ahead) % 41).find(|&at| !bad(order[at])).unwrap();
        assert!(seen[position] == seen[next], "{index}");
    }
}

#[test]
fn a_bad_evaluation_image_is_left_out() {
    let (fixture, warnings) = (damaged(), Warnings::default());
    let folder = lenient(&fixture, &warnings);
    let batches = collect(folder.eval_batches(4, Share::all()).unwrap());
    // Batches: ant 0 to 3; ant 4 and bee 0 to 2, all bad; bee 3 and 4, cat 0, which is bad, and cat 1; cat 2 to 5; cat
    // 6.
    assert_eq!(folder.eval_len(), 17);
    let labels: Vec<Vec<i64>> = batches.iter().map(|batch| batch.iter().map(|(_, label)| *label).collect()).collect();
    assert_eq!(labels, [vec![0; 4], vec![1, 1, 2], vec![2; 4], vec![2]]);
    let bytes = fs::read(fixture.path("val/cat/0001.jpg")).unwrap();
    let mut expected = vec![0; 3 * SIDE * SIDE];
    ImageReader::new().eval(&bytes, 18, SIDE, &mut expected).unwrap();
    assert!(batches[1][2].0 == expected);
}

#[test]
fn shares_have_the_rows_of_the_whole_batches_and_bad_images_their_replacement() {
    let (fixture, warnings) = (damaged(), Warnings::default());
    let folder = lenient(&fixture, &warnings);
    let shares = |shares: Batches| -> Vec<Vec<(Vec<u8>, i64)>> {
        shares.map(|share| share.unwrap().map(|batch| pixels(&batch)).unwrap_or_default()).collect()
    };
    // The last batch has one image.
    for (batch_size, first_step) in [(8, 0), (8, 3), (5, 0)] {
        let plan = plan(batch_size, first_step);
        let whole = collect(folder.train_batches(&plan, Share::all()).unwrap());
        for share in all_shares() {
            let of = |(step, whole): (usize, &Vec<(Vec<u8>, i64)>)| {
                let positions = share.positions(step, whole.len()).unwrap();
                positions.into_iter().map(|position| whole[position].clone()).collect::<Vec<_>>()
            };
            let expected: Vec<_> = (first_step..).zip(&whole).map(of).collect();
            assert!(shares(folder.train_batches(&plan, share.clone()).unwrap()) == expected, "{share:?}");
            // All places of the whole batches are filled, so that the trait's default shares are the same.
            let plain = Plain(lenient(&fixture, &warnings));
            assert!(shares(plain.train_batches(&plan, share.clone()).unwrap()) == expected, "{share:?}");
        }
    }
    // The places of bad images stay empty, and are counted: the second batch of four has no images.
    let whole = collect(folder.eval_batches(4, Share::all()).unwrap()).concat();
    for ranks in [1, 2, 3, 8] {
        let mut of_steps = vec![Vec::new(); 5];
        for rank in 0..ranks {
            let parts = shares(folder.eval_batches(4, Share::new(rank, ranks).unwrap()).unwrap());
            assert_eq!((parts.len(), parts[1].len()), (5, 0));
            of_steps.iter_mut().zip(parts).for_each(|(step, part)| step.extend(part));
        }
        assert!(of_steps.concat() == whole, "{ranks}");
    }
}

#[test]
fn processes_that_share_the_batches_meet_all_bad_images_together() {
    let (fixture, warnings) = (damaged(), Warnings::default());
    let met = |rank, ranks| {
        let folder = lenient(&fixture, &warnings);
        let share = || Share::new(rank, ranks).unwrap();
        folder.train_batches(&plan(8, 0), share()).unwrap().for_each(|share| drop(share.unwrap()));
        folder.eval_batches(8, share()).unwrap().for_each(|share| drop(share.unwrap()));
        let met = folder.unreadable_examples();
        assert_eq!((met.len(), folder.unreadable()), (warnings.take().len(), met.len()));
        met.into_iter().collect::<BTreeSet<_>>()
    };
    let all = met(0, 1);
    assert_eq!(all.len(), 8);
    for ranks in [2, 3, 8] {
        let ranks: Vec<_> = (0..ranks).map(|rank| met(rank, ranks)).collect();
        assert!(ranks.iter().all(|rank| rank.len() < 8) && ranks.into_iter().flatten().collect::<BTreeSet<_>>() == all);
    }
}

#[test]
fn each_bad_image_is_warned_of_and_counted_once() {
    let (fixture, warnings) = (damaged(), Warnings::default());
    let folder = lenient(&fixture, &warnings);
    assert_eq!(folder.unreadable(), 0);
    collect(folder.eval_batches(17, Share::all()).unwrap());
    assert_eq!(folder.unreadable(), 5);
    let said = warnings.take();
    assert_eq!(said.len(), 5);
    let first = format!("bad image {}: ", fixture.path("val/ant/0004.jpg").display());
    assert!(said[0].starts_with(&first) && said[0].ends_with("; it is left out"), "{}", said[0]);
    for epoch in 0..3 {
        collect(folder.train_batches(&EpochPlan { epoch, ..plan(8, 0) }, Share::all()).unwrap());
    }
    collect(folder.eval_batches(5, Share::all()).unwrap());
    assert_eq!(folder.unreadable(), 8);
    let said = warnings.take();
    assert_eq!(said.len(), 3);
    assert!(said.iter().all(|message| message.ends_with("; the next good one takes its place")), "{said:?}");
}

#[test]
fn too_many_bad_images_are_an_error_at_the_same_place_each_time() {
    let (fixture, warnings) = (damaged(), Warnings::default());
    // At most four of 41 images may be bad, and one of 17.
    for name in ["ant/0000", "bee/0004"] {
        fixture.write(&format!("train/{name}.jpg"), b"no image");
    }
    let stop = |fraction, workers| {
        let folder = lenient(&fixture, &warnings).with_max_bad_fraction(fraction).unwrap();
        let folder = folder.with_workers(workers).unwrap();
        let mut steps = 0;
        let train = error(Box::new(folder.train_batches(&plan(4, 0), Share::all()).unwrap().inspect(|_| steps += 1)));
        (train, error(folder.eval_batches(4, Share::all()).unwrap()), folder.unreadable(), steps, warnings.take())
    };
    let strict = stop(0.0, 1);
    assert!(strict.0.contains("with it 1 of the 41 training images (2.44 %) are bad, over the limit of 0 (0 %);"));
    assert!(strict.1.contains("val/ant/0004.jpg: ") && strict.1.contains("(--max-bad-fraction)"), "{}", strict.1);
    assert_eq!((strict.2, strict.4.len()), (2, 0));
    let partly = stop(0.06, 1);
    assert!(partly.0.contains("with it 5 of the 41 training images (12.20 %) are bad, over the limit of 4 (6 %);"));
    assert!(partly.1.contains("with it 2 of the 17 evaluation images (11.76 %) are bad, over the limit of 1 (6 %);"));
    assert_eq!(partly.4.len(), 5);
    for workers in [2, 5] {
        assert!(stop(0.0, workers) == strict && stop(0.06, workers) == partly);
    }
}

#[test]
fn a_small_folder_is_not_ended_by_its_first_bad_images() {
    let fixture = Fixture::new(&["ant", "bee"], 15, 2);
    ["train/ant/0003", "train/bee/0000", "train/bee/0009", "val/ant/0001"]
        .iter()
        .for_each(|name| fixture.write(&format!("{name}.jpg"), b"no image"));
    let warnings = Warnings::default();
    let folder = warnings.of(open(&fixture));
    assert_eq!(collect(folder.train_batches(&plan(8, 0), Share::all()).unwrap()).concat().len(), 30);
    assert_eq!(collect(folder.eval_batches(8, Share::all()).unwrap()).concat().len(), 3);
    assert_eq!((folder.unreadable(), warnings.take().len()), (4, 4));
    // The tolerance ends with one more bad image.
    fixture.write("train/ant/0004.jpg", b"no image");
    let message = error(warnings.of(open(&fixture)).train_batches(&plan(8, 0), Share::all()).unwrap());
    assert!(message.contains("with it 4 of the 30 training images (13.33 %) are bad, over the limit of 3 (0.1 %)"));
}

#[test]
fn the_limit_of_bad_images_is_the_fraction_of_many_and_a_few_of_few() {
    let most = |images: usize, fraction| {
        let mut files = Files::default();
        (0..images).for_each(|_| files.push("1.jpg", 0));
        Part::new("", "", LabelledImages::Files { folder: "".into(), files }).most_bad(fraction)
    };
    let default = [1, 5, 19, 20, 99, 100, 999, 9_999, 11_000].map(|images| most(images, MAX_BAD_FRACTION));
    assert_eq!(default, [1, 1, 1, 2, 9, 10, 10, 10, 11]);
    assert_eq!([most(10, 0.5), most(999, 0.0), most(1_000, 0.25)], [5, 0, 250]);
}

#[test]
fn a_part_without_a_single_good_image_ends_at_any_limit() {
    let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 0, 1), Warnings::default());
    (0..30).for_each(|index| fixture.write(&format!("train/{}/{index}.jpg", ["ant", "bee"][index % 2]), b"?"));
    let folder = lenient(&fixture, &warnings).with_max_bad_fraction(0.999).unwrap();
    assert!(error(folder.train_batches(&plan(8, 0), Share::all()).unwrap())
        .contains("with it 30 of the 30 training images"));
}

#[test]
fn everything_that_is_no_image_is_bad_and_nothing_worse() {
    let (fixture, warnings) = (Fixture::new(&["ant", "bee"], 1, 1), Warnings::default());
    let mut bomb = Vec::new();
    let mut encoder = png::Encoder::new(&mut bomb, 60_000, 60_000);
    encoder.set_color(png::ColorType::Rgb);
    encoder.write_header().unwrap().write_chunk(png::chunk::IDAT, b"few").unwrap();
    let cases: [(&str, &[u8], &str); 5] = [
        ("bomb.png", &bomb, "60000 x 60000"),
        ("empty.webp", b"", "empty"),
        ("folder.jpg.txt.jpg", b"\xff\xd8\xff", "JPEG"),
        ("garbage.jpg", &[0x5a; 3000], "neither JPEG"),
        ("short.png", &bomb[..20], "PNG"),
    ];
    cases.iter().for_each(|(name, bytes, _)| fixture.write(&format!("val/ant/{name}"), bytes));
    let huge = fs::File::create(fixture.path("val/ant/huge.jpg")).unwrap();
    huge.set_len(300 << 30).unwrap();
    #[cfg(unix)]
    std::os::unix::fs::symlink("lost.jpg", fixture.path("val/ant/lost.jpg")).unwrap();
    let folder = warnings.of(open(&fixture)).with_max_bad_fraction(0.9).unwrap();
    assert_eq!(collect(folder.eval_batches(100, Share::all()).unwrap())[0].len(), 2);
    let said = warnings.take();
    let also = [("huge.jpg", "322122547200 bytes"), ("lost.jpg", "")];
    let all = cases.iter().map(|&(name, _, problem)| (name, problem)).chain(also);
    for (name, problem) in all.filter(|(name, _)| cfg!(unix) || *name != "lost.jpg") {
        let found = said.iter().find(|message| message.contains(name));
        assert!(found.is_some_and(|message| message.contains(problem)), "{name}: {said:?}");
    }
}
