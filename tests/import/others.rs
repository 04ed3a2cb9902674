//! Archives, folders and mappings; what is mended, and what is said of a source that does not fit.

use std::path::Path;

use modalign::data::import::{Options, Report, import};
use modalign::data::{Dataset, Modality, SplitName};

use crate::place::{convert, fixture, folder};
use crate::round_trip::ramp;

fn mapped(source: &Path, map: &str) -> Result<(Report, Dataset), String> {
    let folder = folder();
    let (file, out) = (folder.path().join("map.toml"), folder.path().join("out.safetensors"));
    std::fs::write(&file, map).unwrap();
    let options = Options { map: Some(file), ..Options::default() };
    let report = import(source, &out, &options, &mut |_, _| {}).map_err(|e| e.to_string())?;
    Ok((report, Dataset::open(&out).map_err(|e| e.to_string())?))
}

/// A `.npy` file of version 1.
fn npy(path: &Path, descr: &str, shape: &str, items: &[u8]) {
    let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}\n");
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(items);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, bytes).unwrap();
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

#[test]
fn archives_with_names_that_say_it() {
    for name in ["stored.npz", "deflated.npz"] {
        let folder = folder();
        let out = folder.path().join("out.safetensors");
        let report = convert(&fixture(name), &out).unwrap();
        let data = Dataset::open(&out).unwrap();
        let train = data.split(SplitName::Train).unwrap();
        let audio = train.stream(Modality::Audio).unwrap();
        let found: Vec<f32> = (0..4).flat_map(|row| audio.row(row)).collect();
        assert_eq!(found, ramp(1, 4 * 6 * 2), "{name}");
        let test = data.split(SplitName::Test).unwrap();
        assert_eq!(test.stream(Modality::Text).unwrap().row(1), ramp(2, 2 * 3)[3..], "{name}");
        assert_eq!(train.labels().unwrap(), ramp(3, 4).iter().map(|x| x / 4.0).collect::<Vec<_>>());
        assert_eq!(train.ids().unwrap(), ["a", "b", "c", "d"], "an array of objects is a pickle");
        assert_eq!(report.left, ["extra"]);
        assert!(report.sha256.is_some());
    }
}

#[test]
fn an_archive_with_a_mapping() {
    let map = "[fields]\naudio = 'audio_{split}'\ntext = '{split}/text'\n\
               regression_labels = '{split}.labels'\n";
    let (_, data) = mapped(&fixture("stored.npz"), map).unwrap();
    assert_eq!(data.modalities(), [Modality::Text, Modality::Audio]);
    assert!(data.split(SplitName::Train).unwrap().ids().is_none());
    let wrong = mapped(&fixture("stored.npz"), "[fields]\naudio = 'x_{split}'\n").unwrap_err();
    assert!(wrong.contains("none of the files that the mapping names is there"), "{wrong}");
    let map = "[fields]\naudio = 'audio_{split}'\nvision = 'seen_{split}'\n";
    let wrong = mapped(&fixture("stored.npz"), map).unwrap_err();
    assert!(wrong.contains("seen_train: the archive has no such array"), "{wrong}");
}

/// A table for all rows, a file for each sample.
fn recordings(folder: &Path) {
    let meta = "\u{feff}id, split ,label,text\n\
                a1,train,-1.5,\"well, no\"\nb1,test,2,yes\na2,Train,0.25,\n\
                c1,dev,1,so\nx,none,9,out\n";
    std::fs::write(folder.join("meta.csv"), meta).unwrap();
    npy(&folder.join("sentences.npy"), "<f4", "(5, 2)", &f32s(&ramp(0, 10)));
    std::fs::create_dir(folder.join("face")).unwrap();
    for (k, id) in ["a1", "b1", "a2", "c1", "x"].into_iter().enumerate() {
        let lines: String = (0..=k).map(|t| format!("{t},0.5,{}.{t},word,{k}\n", k + 1)).collect();
        let path = folder.join(format!("face/{id}.csv"));
        std::fs::write(path, format!("frame, confidence, AU01_r,note,AU02_r\n{lines}")).unwrap();
        let items: Vec<u8> =
            (0..2 * (k + 2)).flat_map(|i| (i as f64 / 2.0).to_le_bytes()).collect();
        npy(&folder.join(format!("voice/{id}.npy")), "<f8", &format!("({}, 2)", k + 2), &items);
    }
}

const RECORDINGS: &str = "split = 'meta.csv:split'\n[fields]\nid = 'meta.csv:id'\n\
    raw_text = 'meta.csv:text'\nregression_labels = 'meta.csv:label'\ntext = 'sentences.npy'\n\
    vision = 'face/{id}.csv:AU01_r,AU02_r'\naudio = 'voice/{id}.npy'\n";

#[test]
fn a_folder_with_a_table_and_a_file_for_each_sample() {
    let folder = folder();
    recordings(folder.path());
    let (report, data) = mapped(folder.path(), RECORDINGS).unwrap();
    assert_eq!(report.rows, [(SplitName::Train, 2), (SplitName::Valid, 1), (SplitName::Test, 1)]);
    assert_eq!(report.notes, ["1 rows of meta.csv:split belong to none of train, valid, test"]);
    let train = data.split(SplitName::Train).unwrap();
    assert_eq!(train.ids().unwrap(), ["a1", "a2"]);
    assert_eq!(train.raw_text().unwrap(), ["well, no", ""]);
    assert_eq!(train.labels().unwrap(), [-1.5, 0.25]);
    let text = train.stream(Modality::Text).unwrap();
    assert_eq!((text.row(0), text.row(1)), (ramp(0, 10)[..2].to_vec(), ramp(0, 10)[4..6].to_vec()));
    // Rows 0 and 2 of the table: 1 and 3 steps, padded to the longest of all splits, 4.
    let vision = train.stream(Modality::Vision).unwrap();
    assert_eq!((vision.steps, vision.dim, vision.len(0), vision.len(1)), (4, 2, 1, 3));
    assert_eq!(vision.row(1), [3.0, 2.0, 3.1, 2.0, 3.2, 2.0, 0.0, 0.0]);
    let audio = train.stream(Modality::Audio).unwrap();
    assert_eq!((audio.steps, audio.len(0), audio.len(1)), (5, 2, 4));
    assert_eq!(audio.row(0)[..6], [0.0, 0.5, 1.0, 1.5, 0.0, 0.0]);
}

#[test]
fn what_a_folder_lacks_is_named() {
    let folder = folder();
    recordings(folder.path());
    let without = |from: &str, to: &str| {
        assert!(RECORDINGS.contains(from));
        mapped(folder.path(), &RECORDINGS.replace(from, to)).expect_err("refused")
    };
    for (from, to, words) in [
        ("meta.csv:label", "meta.csv:lable", "no column 'lable', did you mean 'label'?"),
        ("meta.csv:label", "meta.csv:text", "'well, no' is no number"),
        ("face/{id}.csv:AU01_r,AU02_r", "face/{id}.csv", "column 'note': 'word' is no number"),
        ("sentences.npy", "sentence.npy", "sentence.npy: there is no such file in the folder"),
        ("sentences.npy", "meta.txt", "there is no such file"),
        ("voice/{id}.npy", "voices/{id}.npy", "voices/a1.npy"),
        ("id = 'meta.csv:id'\n", "", "needs the field `id`"),
        ("split = 'meta.csv:split'\n", "", "say where each row's split is"),
        ("'sentences.npy'", "'{split}.npy'", "both `split` and names with {split}"),
        ("\ntext = ", "\ntxt = ", "no field 'txt', did you mean 'text'?"),
        ("[fields]", "[field]", "mapping"),
    ] {
        let error = without(from, to);
        assert!(error.contains(words) && !error.contains('\n'), "no '{words}' in: {error}");
    }
    let meta = format!("id,split,label,text\n{}", "../a1,train,1,x\n".repeat(5));
    std::fs::write(folder.path().join("meta.csv"), meta).unwrap();
    let error = mapped(folder.path(), RECORDINGS).unwrap_err();
    assert!(error.contains("leads out of the folder"), "{error}");
    let empty = crate::place::folder();
    let out = folder.path().join("o.safetensors");
    let error = convert(empty.path(), &out).unwrap_err().to_string();
    assert!(error.contains("--map MAP.toml"), "{error}");
}

/// `train/audio.npy` and `train_labels.npy` need no mapping.
fn small(folder: &Path, audio: &[f32], shape: &str) {
    npy(&folder.join("train/audio.npy"), "<f4", shape, &f32s(audio));
    npy(&folder.join("train_labels.npy"), "<f4", "(2,)", &f32s(&[1.0, -1.0]));
}

#[test]
fn what_is_no_number_stops_the_import_or_becomes_zero() {
    let folder = folder();
    let out = folder.path().join("out.safetensors");
    let mut audio = ramp(0, 2 * 2 * 3);
    (audio[2], audio[8], audio[10]) = (f32::NEG_INFINITY, f32::NAN, f32::INFINITY);
    small(folder.path(), &audio, "(2, 2, 3)");
    let error = convert(folder.path(), &out).unwrap_err().to_string();
    assert!(error.contains("train.audio, row 1, step 0, feature 2: the value is NaN"), "{error}");
    assert!(error.contains("--nan-to-zero") && !out.exists(), "{error}");
    let options = Options { nan_to_zero: true, ..Options::default() };
    let report = import(folder.path(), &out, &options, &mut |_, _| {}).unwrap();
    let changes = &report.tensors[0].changes;
    assert!(changes.contains(&"1 value of -inf set to 0".to_string()), "{changes:?}");
    assert!(changes.contains(&"2 values of NaN or infinity set to 0".to_string()), "{changes:?}");
    let data = Dataset::open(&out).unwrap();
    let stream = data.split(SplitName::Train).unwrap().stream(Modality::Audio).unwrap();
    let expected = audio.iter().map(|x| if x.is_finite() { *x } else { 0.0 }).collect::<Vec<_>>();
    assert_eq!([stream.row(0), stream.row(1)].concat(), expected);
}

#[test]
fn lengths_are_found_where_a_file_has_none() {
    let folder = folder();
    let out = folder.path().join("out.safetensors");
    let audio = [1.0, 2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 0.0, 0.0, 0.0];
    small(folder.path(), &audio, "(2, 3, 2)");
    convert(folder.path(), &out).unwrap();
    let data = Dataset::open(&out).unwrap();
    let stream = data.split(SplitName::Train).unwrap().stream(Modality::Audio).unwrap();
    assert_eq!([stream.len(0), stream.len(1)], [1, 2]);
    // Zeros at the beginning may be data: they stay, and are said.
    small(
        folder.path(),
        &[0.0, 0.0, 0.0, 0.0, 5.0, 6.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0],
        "(2, 3, 2)",
    );
    let report = convert(folder.path(), &out).unwrap();
    assert_eq!(
        report.tensors[0].changes,
        [
            "lengths up to the last step that is not zero",
            "1 row begins with zeros (kept; padded at the front? then give lengths)",
        ]
    );
}

#[test]
fn rows_padded_at_the_front_are_moved() {
    let folder = folder();
    let out = folder.path().join("out.safetensors");
    let audio = [0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 0.0, 0.0];
    small(folder.path(), &audio, "(2, 3, 2)");
    let lengths: Vec<u8> = [2i64, 2].iter().flat_map(|v| v.to_le_bytes()).collect();
    npy(&folder.path().join("train/audio_lengths.npy"), "<i8", "(2,)", &lengths);
    let report = convert(folder.path(), &out).unwrap();
    assert_eq!(
        report.tensors[0].changes,
        ["1 row was padded at the front: moved to the beginning"]
    );
    let data = Dataset::open(&out).unwrap();
    let stream = data.split(SplitName::Train).unwrap().stream(Modality::Audio).unwrap();
    assert_eq!(stream.row(0), [1.0, 2.0, 3.0, 4.0, 0.0, 0.0]);
    assert_eq!(stream.row(1), [5.0, 6.0, 7.0, 8.0, 0.0, 0.0]);
}

#[test]
fn exchanged_audio_and_vision_are_told_by_their_widths() {
    let folder = folder();
    let out = folder.path().join("out.safetensors");
    npy(&folder.path().join("train/audio.npy"), "<f4", "(1, 2, 20)", &f32s(&ramp(0, 40)));
    npy(&folder.path().join("train/vision.npy"), "<f4", "(1, 3, 5)", &f32s(&ramp(1, 15)));
    let report = convert(folder.path(), &out).unwrap();
    assert!(report.notes[0].contains("under each other's names"), "{:?}", report.notes);
    let data = Dataset::open(&out).unwrap();
    let train = data.split(SplitName::Train).unwrap();
    assert_eq!(train.stream(Modality::Audio).unwrap().row(0), ramp(1, 15));
    assert_eq!(train.stream(Modality::Vision).unwrap().row(0), ramp(0, 40));
}

#[test]
fn tokens_in_another_order_and_classes_below_zero() {
    let folder = folder();
    let out = folder.path().join("out.safetensors");
    small(folder.path(), &ramp(0, 4), "(2, 2)");
    // Mask, id and segment of each token, as rows x tokens x 3.
    let rows: [[i32; 12]; 2] =
        [[1, 101, 0, 1, 102, 0, 0, 0, 0, 0, 0, 0], [1, 101, 0, 1, 7, 0, 1, 102, 0, 0, 0, 0]];
    let items: Vec<u8> = rows.as_flattened().iter().flat_map(|v| v.to_be_bytes()).collect();
    npy(&folder.path().join("train/text_bert.npy"), ">i4", "(2, 4, 3)", &items);
    npy(&folder.path().join("train/classes.npy"), "<f4", "(2, 1)", &f32s(&[-1.0, 1.0]));
    let report = convert(folder.path(), &out).unwrap();
    let bert = report.tensors.iter().find(|t| t.field == "text_bert").unwrap();
    assert_eq!(
        bert.changes,
        [
            "rows x tokens x 3 turned to rows x 3 x tokens",
            "lines were mask, ids, segments: put in order"
        ]
    );
    let data = Dataset::open(&out).unwrap();
    let train = data.split(SplitName::Train).unwrap();
    let tokens = train.text_bert().unwrap();
    assert_eq!(tokens.ids(1).collect::<Vec<_>>(), [101, 7, 102, 0]);
    assert_eq!(tokens.mask(0).collect::<Vec<_>>(), [1, 1, 0, 0]);
    assert_eq!(train.class_labels().unwrap(), [0, 2]);
}

#[test]
fn several_targets_and_rows_that_lack_a_modality() {
    let folder = folder();
    let out = folder.path().join("out.safetensors");
    small(folder.path(), &ramp(0, 4), "(2, 2)");
    let at = |name: &str| folder.path().join("train").join(name);
    let ints = |values: &[i32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let labels = folder.path().join("train_labels.npy");
    npy(&labels, "<f4", "(2, 3)", &f32s(&[1.0, 5.5, 7.0, 2.0, 0.5, 1.0]));
    npy(&at("classes.npy"), "<i4", "(2, 2)", &ints(&[0, 1, 1, 1]));
    npy(&at("audio_missing.npy"), "<i4", "(2,)", &ints(&[0, 1]));
    convert(folder.path(), &out).unwrap();
    let data = Dataset::open(&out).unwrap();
    let train = data.split(SplitName::Train).unwrap();
    assert_eq!(train.targets().unwrap().numbers(), [1.0, 5.5, 7.0, 2.0, 0.5, 1.0]);
    assert_eq!(data.task().names, ["number 0", "number 1", "number 2"]);
    assert!(!train.missing(Modality::Audio, 0) && train.missing(Modality::Audio, 1));
    let kind = Some(modalign::data::TaskKind::Labels);
    let labels = modalign::data::Options { task: kind, ..modalign::data::Options::default() };
    let data = Dataset::open_with(&out, &labels).unwrap();
    let train = data.split(SplitName::Train).unwrap();
    assert_eq!(train.targets().unwrap().numbers(), [0.0, 1.0, 1.0, 1.0]);

    npy(&at("audio_missing.npy"), "<i4", "(2,)", &ints(&[0, 3]));
    let why = convert(folder.path(), &out).expect_err("refused").to_string();
    assert!(why.contains("train.audio_missing, row 1 is 3; 1 says"), "{why}");
    std::fs::remove_file(at("audio_missing.npy")).unwrap();
    npy(&at("classes.npy"), "<i4", "(2, 2)", &ints(&[0, 1, 2, 1]));
    let report = convert(folder.path(), &out).unwrap();
    assert!(report.notes.iter().any(|n| n.contains("several labels a row are 0 and 1")));
}

#[test]
fn what_does_not_fit_is_named() {
    let folder = folder();
    let out = folder.path().join("out.safetensors");
    small(folder.path(), &ramp(0, 4), "(2, 2)");
    let message = |name: &str, descr: &str, shape: &str, items: &[u8]| {
        let path = folder.path().join(name);
        npy(&path, descr, shape, items);
        let error = convert(folder.path(), &out).expect_err("refused").to_string();
        std::fs::remove_file(path).unwrap();
        error
    };
    let wide: Vec<u8> = [1.0f64, 1e300].iter().flat_map(|v| v.to_le_bytes()).collect();
    let error = message("train/text.npy", "<f8", "(2, 1)", &wide);
    assert!(
        error.contains("train.text, row 1, step 0, feature 0") && error.contains("32-bit float"),
        "{error}"
    );
    let large: Vec<u8> = [3i64, (1 << 53) + 1].iter().flat_map(|v| v.to_le_bytes()).collect();
    let error = message("train/text.npy", "<i8", "(2, 1)", &large);
    assert!(error.contains("does not fit into a 32-bit float"), "{error}");
    let error = message("train/text.npy", "<f4", "(3, 1)", &f32s(&[1.0; 3]));
    assert!(
        error.contains("train.text has 3 rows") || error.contains("where train.audio"),
        "{error}"
    );
    let error = message("train/text.npy", "<c8", "(2, 1)", &[0; 16]);
    assert!(error.contains("neither numbers nor strings"), "{error}");
    let error = message("train/text.npy", "<f4", "(2, 9)", &[0; 16]);
    assert!(error.contains("cut short"), "{error}");
    let error = message("valid/text.npy", "<f4", "(2, 1)", &f32s(&[1.0; 2]));
    assert!(error.contains("give every split the same modalities"), "{error}");
    let error = message("train/text_bert.npy", "<f4", "(2, 3, 1)", &f32s(&[0.5; 6]));
    assert!(error.contains("0.5 does not fit into a 32-bit integer"), "{error}");
    let error = message("train_regression_labels_T.npy", "<f4", "(2,)", &f32s(&[0.5, f32::NAN]));
    assert!(error.contains("train.regression_labels_T, row 1 is NaN"), "{error}");
    // The source is never the target, and a target has the name of one.
    let source = folder.path().join("s.safetensors");
    std::fs::write(&source, "x").unwrap();
    assert!(convert(&source, &source).unwrap_err().to_string().contains("--out is the source"));
    let error = convert(&source, &folder.path().join("o.pkl")).unwrap_err().to_string();
    assert!(error.contains("ends in .safetensors"), "{error}");
}

/// Streams of other names come over with what is said of them, and fields that are no streams stay behind.
#[test]
fn streams_of_other_names() {
    let folder = folder();
    for (split, rows) in [("train", 3), ("test", 2)] {
        let place = |field: &str| folder.path().join(format!("{split}/{field}.npy"));
        npy(&place("image"), "<f4", &format!("({rows}, 4)"), &f32s(&ramp(5, rows * 4)));
        npy(&place("pose"), "<f4", &format!("({rows}, 3, 2)"), &f32s(&ramp(9, rows * 6)));
        let ints =
            |values: Vec<i32>| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>();
        let lengths: Vec<i32> = (0..rows as i32).map(|row| 1 + row % 3).collect();
        npy(&place("pose_lengths"), "<i4", &format!("({rows},)"), &ints(lengths));
        let lacks = (0..rows as i32).map(|row| i32::from(row == 1)).collect();
        npy(&place("image_missing"), "<i4", &format!("({rows},)"), &ints(lacks));
        npy(&place("weight"), "<f4", &format!("({rows},)"), &f32s(&ramp(1, rows)));
        npy(&place("voice_missing"), "<i4", &format!("({rows},)"), &ints(vec![0; rows]));
        npy(&place("labels"), "<f4", &format!("({rows},)"), &f32s(&vec![0.5; rows]));
    }
    let out = folder.path().join("out.safetensors");
    let report = convert(folder.path(), &out).unwrap();
    let data = Dataset::open(&out).unwrap();
    let [image, pose] = ["image", "pose"].map(|name| Modality::named(name).unwrap());
    assert_eq!(data.modalities(), [image, pose]);
    let train = data.split(SplitName::Train).unwrap();
    let (seen, moved) = (train.stream(image).unwrap(), train.stream(pose).unwrap());
    assert_eq!((seen.steps, seen.dim, seen.has_lengths()), (1, 4, false));
    assert_eq!(seen.row(2), ramp(5, 12)[8..]);
    assert_eq!((0..3).map(|row| moved.len(row)).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(
        (0..3).map(|row| train.missing(image, row)).collect::<Vec<_>>(),
        [false, true, false]
    );
    let mut left = report.left.clone();
    left.sort();
    let wanted = ["test.voice_missing", "test.weight", "train.voice_missing", "train.weight"];
    assert_eq!(left, wanted);
    let image = "[fields]\nimage = '{split}/image.npy'\nregression_labels = '{split}/labels.npy'\n";
    let (_, data) = mapped(folder.path(), image).unwrap();
    assert_eq!(data.modalities().len(), 1);
    let slip = mapped(folder.path(), &image.replace("image =", "visoin =")).unwrap_err();
    assert!(slip.contains("no field 'visoin', did you mean 'vision'?"), "{slip}");
}
