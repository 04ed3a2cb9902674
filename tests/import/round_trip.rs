//! What numpy wrote is what the data set holds, bit for bit, in every protocol and both namings.

use modalign::data::import::Report;
use modalign::data::{Dataset, Modality, Split, SplitName};

use crate::place::{convert, folder, pickles};

/// The formulas of `make_pickles.py`.
pub fn ramp(start: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| (((7919 * i + start) % 1021) as f32 - 510.0) / 64.0).collect()
}

fn whole(start: usize, n: usize) -> Vec<f32> {
    (0..n).map(|i| ((7919 * i + start) % 121) as f32 - 60.0).collect()
}

fn bits(start: usize, n: usize) -> Vec<f32> {
    let mut state = start as u32;
    let mut draw = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        f32::from_bits(state & 0xff7f_ffff)
    };
    (0..n).map(|_| draw()).collect()
}

fn same(split: &Split, modality: Modality, wanted: &[f32]) {
    let stream = split.stream(modality).unwrap();
    let found: Vec<u32> =
        (0..stream.rows).flat_map(|row| stream.row(row)).map(f32::to_bits).collect();
    let wanted: Vec<u32> = wanted.iter().map(|x| x.to_bits()).collect();
    assert_eq!(found, wanted, "{}.{modality}", split.name());
}

fn lengths(split: &Split, modality: Modality) -> Vec<usize> {
    let stream = split.stream(modality).unwrap();
    (0..stream.rows).map(|row| stream.len(row)).collect()
}

fn check(data: &Dataset) {
    let text = |rows: usize| rows * 5 * 3;
    let audio = |rows: usize| rows * 6 * 2;
    let vision = |rows: usize| rows * 4 * 3;
    let [train, valid, test] = SplitName::ALL.map(|name| data.split(name).unwrap());

    same(train, Modality::Text, &ramp(68, text(4)));
    let mut expected = ramp(69, audio(4));
    // -inf in row 1, step 2, feature 1.
    expected[6 * 2 + 2 * 2 + 1] = 0.0;
    same(train, Modality::Audio, &expected);
    same(train, Modality::Vision, &ramp(70, vision(4)));
    same(valid, Modality::Text, &ramp(51, text(3)));
    same(valid, Modality::Audio, &whole(52, audio(3)));
    same(valid, Modality::Vision, &whole(53, vision(3)));
    same(test, Modality::Text, &bits(34, text(2)));
    same(test, Modality::Audio, &bits(35, audio(2)));
    same(test, Modality::Vision, &whole(36, vision(2)));

    assert_eq!(lengths(train, Modality::Text), [2, 3, 4, 5]);
    assert_eq!(lengths(train, Modality::Audio), [6, 6, 1, 3]);
    assert_eq!(lengths(train, Modality::Vision), [4, 1, 2, 3]);
    assert_eq!(lengths(valid, Modality::Audio), [6, 2, 5]);
    assert_eq!(lengths(test, Modality::Audio), [6, 1]);
    assert_eq!(lengths(test, Modality::Vision), [4, 2]);

    for split in [train, valid, test] {
        let rows = split.rows();
        let labels: Vec<f32> = ramp(3, rows).iter().map(|x| x / 4.0).collect();
        assert_eq!(split.labels().unwrap(), labels);
        let classes: Vec<u32> = (0..rows as u32).map(|row| row % 3).collect();
        assert_eq!(split.class_labels().unwrap(), classes);
        let bert = split.text_bert().unwrap();
        for row in 0..rows {
            let tokens = 2 + row;
            let mut ids = vec![101];
            ids.extend((0..tokens as i32 - 2).map(|k| 1000 + 10 * row as i32 + k));
            ids.push(102);
            ids.resize(5, 0);
            assert_eq!(bert.ids(row).collect::<Vec<_>>(), ids);
            let mask: Vec<i32> = (0..5).map(|t| i32::from(t < tokens)).collect();
            assert_eq!(bert.mask(row).collect::<Vec<_>>(), mask);
            assert!(bert.segments(row).all(|s| s == 0));
        }
    }
    assert_eq!(train.raw_text().unwrap(), ["one", "zwölf", "你好", ""]);
    assert_eq!(valid.raw_text().unwrap(), ["a", "b", "c"]);
    assert_eq!(test.raw_text().unwrap(), ["x", "😀"]);
    assert_eq!(train.ids().unwrap(), ["v$_$1", "v$_$2", "w$_$1", "w$_$2"]);
    assert_eq!(valid.ids().unwrap(), ["p", "q", "r"]);
    assert_eq!(test.ids().unwrap(), ["v$_$1", "v$_$2"]);
}

fn changes<'r>(report: &'r Report, split: SplitName, field: &str) -> &'r [String] {
    let found = report.tensors.iter().find(|t| t.split == split && t.field == field);
    &found.unwrap_or_else(|| panic!("{split}.{field}")).changes
}

#[test]
fn every_protocol_and_both_namings() {
    for path in pickles() {
        println!("{}", path.display());
        let folder = folder();
        let out = folder.path().join("out.safetensors");
        let (mut last, mut calls) = ((0, 0), 0);
        let report =
            modalign::data::import::import(&path, &out, &Default::default(), &mut |done, total| {
                assert!(done >= last.0 && done <= total);
                last = (done, total);
                calls += 1;
            })
            .unwrap();
        assert!(calls > 9 && last.0 == last.1, "{last:?}");
        check(&Dataset::open(&out).unwrap());

        assert_eq!(report.bytes, std::fs::metadata(&out).unwrap().len());
        let sum = modalign::files::sha256_hex(&std::fs::read(&path).unwrap());
        assert_eq!(report.sha256.as_deref(), Some(sum.as_str()));
        assert_eq!((report.published, report.preset), (None, "mosi"));
        assert_eq!(report.notes, [""; 0]);
        assert_eq!(
            changes(&report, SplitName::Train, "audio"),
            [
                "1 value of -inf set to 0",
                "1 length cut to the steps there are",
                "1 length below 1 set to 1",
                "2 rows have values past their lengths (kept, never read)",
            ]
        );
        assert_eq!(
            changes(&report, SplitName::Valid, "text")[0],
            "lengths from the attention mask"
        );
        let side: serde_json::Value =
            serde_json::from_slice(&std::fs::read(out.with_extension("json")).unwrap()).unwrap();
        assert_eq!(side["source"]["sha256"], sum);
        assert_eq!(side["train"]["annotations"][2], "Positive");
        assert_eq!(side["valid"]["annotations"][1], "Negative");
    }
}

/// The same source gives the same bytes, whatever wrote its pickle.
#[test]
fn the_files_of_all_protocols_are_equal() {
    let folder = folder();
    let mut first: Option<Vec<u8>> = None;
    for path in pickles() {
        let out = folder.path().join("out.safetensors");
        convert(&path, &out).unwrap();
        let bytes = std::fs::read(&out).unwrap();
        assert!(*first.get_or_insert_with(|| bytes.clone()) == bytes, "{}", path.display());
    }
}

/// Other people's dictionaries: `labels` of shape (N, 1, 1), a list of arrays, other split names.
#[test]
fn other_names_and_lists_are_understood() {
    // {'Training': {'labels': [0.5, -1, True], 'acoustic': [a, a, a], 'weights': None}}
    let array =
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R(K\x01K";
    let dtype = b"cnumpy\ndtype\n\x8c\x02i1\x89\x88\x87R";
    let mut file = b"\x80\x04}(\x8c\x08Training}(\x8c\x06labels](G\x3f\xe0\0\0\0\0\0\0".to_vec();
    file.extend(b"J\xff\xff\xff\xff\x88e\x8c\x08acoustic](");
    for steps in 1..=3u8 {
        file.extend(array);
        file.extend([steps, b'K', 2, 0x86]);
        file.extend(dtype);
        file.extend([0x89, b'C', 2 * steps]);
        file.extend((0..2 * steps).map(|i| i + steps));
        file.extend(b"tb");
    }
    file.extend(b"e\x8c\x07weightsNuu.");
    let folder = folder();
    let (source, out) = (folder.path().join("in.pkl"), folder.path().join("out.safetensors"));
    std::fs::write(&source, file).unwrap();
    let report = convert(&source, &out).unwrap();
    assert_eq!(
        report.notes,
        ["labels was taken for regression_labels", "acoustic was taken for audio"]
    );
    assert_eq!(report.left, ["train.weights"]);
    let data = Dataset::open(&out).unwrap();
    let train = data.split(SplitName::Train).unwrap();
    assert_eq!(train.labels().unwrap(), [0.5, -1.0, 1.0]);
    assert_eq!(lengths(train, Modality::Audio), [1, 2, 3]);
    let audio = train.stream(Modality::Audio).unwrap();
    assert_eq!(audio.row(1), [2.0, 3.0, 4.0, 5.0, 0.0, 0.0]);
}
