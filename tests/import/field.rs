//! What people of this field bring, from files of their kinds (`tests/fixtures/make_field.py`).

use modalign::data::import::{Options, Report, import};
use modalign::data::{Dataset, Modality, Split, SplitName};

use crate::place::{field, folder};

fn converted(name: &str, column: Option<&str>) -> Result<(Report, Dataset), String> {
    let place = folder();
    let out = place.path().join("out.safetensors");
    let options = Options { label_column: column.map(Into::into), ..Options::default() };
    let report = import(&field(name), &out, &options, &mut |_, _| {}).map_err(|e| e.to_string())?;
    Ok((report, Dataset::open(&out).map_err(|e| e.to_string())?))
}

fn read(name: &str) -> (Report, Dataset) {
    converted(name, None).unwrap_or_else(|why| panic!("{name}: {why}"))
}

fn of(data: &Dataset, name: SplitName) -> &Split {
    data.split(name).unwrap()
}

/// Numbers that count from `first` on.
fn counted(first: usize, count: usize) -> Vec<f32> {
    (first..first + count).map(|x| x as f32).collect()
}

#[test]
fn dicts_of_collections_are_dicts() {
    for name in ["ordered.pkl", "ordered_2.pkl", "defaultdict.pkl"] {
        let (_, data) = read(name);
        let train = of(&data, SplitName::Train);
        assert_eq!(train.labels().unwrap(), [-2.0, -1.0, 0.0, 1.0, 2.0, -2.0, -1.0, 0.0], "{name}");
        assert_eq!(train.stream(Modality::Audio).unwrap().row(1), counted(7, 6), "{name}");
    }
}

#[test]
fn streams_padded_at_the_front_are_moved_together() {
    let (report, data) = read("front.pkl");
    let train = of(&data, SplitName::Train);
    let [text, vision] = [Modality::Text, Modality::Vision].map(|m| train.stream(m).unwrap());
    for row in 0..8 {
        let (steps, lead) = (1 + row % 4, 3 - row % 4);
        assert_eq!([text.len(row), vision.len(row)], [steps, steps], "row {row}");
        assert_eq!(text.row(row)[..2 * steps], counted(1 + 8 * row + 2 * lead, 2 * steps), "{row}");
        // Its first step is black, as it was, at the place that the text's first word has.
        let black = if steps > 1 { 3 } else { 0 };
        let wanted = counted(1 + 12 * row + 3 * lead + black, 3 * steps - black);
        assert!(vision.row(row)[..black].iter().all(|x| *x == 0.0), "row {row}");
        assert_eq!(vision.row(row)[black..3 * steps], wanted, "row {row}");
    }
    let text = report.tensors.iter().find(|t| t.field == "text").unwrap();
    assert_eq!(text.changes, ["6 rows were padded at the front: moved to the beginning"]);
}

#[test]
fn a_row_without_a_step_lacks_the_modality() {
    let (report, data) = read("empty.pkl");
    let train = of(&data, SplitName::Train);
    let audio = train.stream(Modality::Audio).unwrap();
    let lacking: Vec<usize> = (0..8).filter(|row| audio.missing(*row)).collect();
    assert_eq!(lacking, [5]);
    assert_eq!(audio.row(4)[..4], counted(1, 4));
    let note = "train.audio: 1 of 8 rows have no step (row 5): they are said to lack it";
    assert!(report.notes.iter().any(|n| n == note), "{:?}", report.notes);
}

#[test]
fn ids_of_several_parts_are_joined() {
    for name in ["id_tuples.pkl", "id_objects.pkl"] {
        let (_, data) = read(name);
        let ids = of(&data, SplitName::Train).ids().unwrap();
        assert_eq!((ids.len(), ids[3].as_str()), (8, "video3$_$1.5$_$2.5"), "{name}");
    }
}

#[test]
fn lists_of_mag_bert_are_read() {
    let (_, data) = read("bag.pkl");
    let valid = of(&data, SplitName::Valid);
    assert_eq!(valid.labels().unwrap(), [-2.0, -1.0, 0.0, 1.0]);
    assert_eq!(valid.ids().unwrap(), ["v[0]", "v[1]", "v[2]", "v[3]"]);
    assert_eq!(valid.raw_text().unwrap()[0], "so good");
    assert_eq!(valid.stream(Modality::Vision).unwrap().row(2), counted(3, 6));
    assert_eq!(valid.stream(Modality::Audio).unwrap().row(1), counted(2, 4));
}

#[test]
fn one_clip_is_a_row_of_test() {
    let (report, data) = read("one.pkl");
    let test = of(&data, SplitName::Test);
    assert_eq!((test.rows(), test.ids().unwrap()), (1, &["new".to_string()][..]));
    assert_eq!(test.raw_text().unwrap(), ["not bad"]);
    assert_eq!(test.stream(Modality::Audio).unwrap().row(0), counted(1, 6));
    assert!(
        report.notes.iter().any(|n| n.contains("one clip without splits")),
        "{:?}",
        report.notes
    );
}

#[test]
fn a_column_of_labels_is_chosen() {
    let why = converted("seven.pkl", None).unwrap_err();
    assert!(why.contains("[8, 1, 7]") && why.contains("--label-column"), "{why}");
    for (column, first) in [("0", 1.0), ("anger", 4.0), ("6", 7.0)] {
        let (_, data) = converted("seven.pkl", Some(column)).unwrap();
        let labels = of(&data, SplitName::Test).labels().unwrap().to_vec();
        assert_eq!(labels, [0.0, 7.0, 14.0, 21.0].map(|x| (x + first) / 64.0), "{column}");
    }
    let why = converted("seven.pkl", Some("angry")).unwrap_err();
    assert!(why.contains("none of 0 to 6 or sentiment, happy"), "{why}");
}

#[test]
fn archives_of_objects_are_read_as_pickles_are() {
    let (_, data) = read("objects.npz");
    let train = of(&data, SplitName::Train);
    let audio = train.stream(Modality::Audio).unwrap();
    assert_eq!([audio.len(0), audio.len(1), audio.len(2)], [1, 2, 3]);
    assert_eq!(audio.row(2), counted(1, 6));
    assert_eq!(train.labels().unwrap()[..3], [-2.0, -1.0, 0.0]);
    assert_eq!(train.ids().unwrap()[7], "a7");
}

#[test]
fn what_is_not_the_file_itself_is_named() {
    let place = folder();
    let said = |bytes: &[u8]| {
        let path = place.path().join("in.pkl");
        std::fs::write(&path, bytes).unwrap();
        let out = place.path().join("out.safetensors");
        import(&path, &out, &Options::default(), &mut |_, _| {}).unwrap_err().to_string()
    };
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 372831\n";
    assert!(said(pointer).contains("a pointer of Git LFS, not the file itself"));
    assert!(said(b"\n<!DOCTYPE html><html></html>").contains("a web page, not the file itself"));
    let why = converted("torch.pkl", None).unwrap_err();
    assert!(why.contains("a tensor of torch") && why.contains("x.numpy()"), "{why}");
}
