//! What people of this field bring, from files of their kinds (`tests/fixtures/make_field.py`).

use std::path::Path;

use modalign::data::import::{Options, Report, import};
use modalign::data::{Dataset, Modality, Split, SplitName};

use crate::place::{field, folder};

fn converted(name: &str, column: Option<&str>) -> Result<(Report, Dataset), String> {
    let options = Options { label_column: column.map(Into::into), ..Options::default() };
    with(&field(name), &options)
}

fn with(source: &Path, options: &Options) -> Result<(Report, Dataset), String> {
    let place = folder();
    let out = place.path().join("out.safetensors");
    let report = import(source, &out, options, &mut |_, _| {}).map_err(|e| e.to_string())?;
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

#[test]
fn tensors_of_any_type_are_mended() {
    let (report, data) = read("types.safetensors");
    let train = of(&data, SplitName::Train);
    let [text, audio, vision] = Modality::KNOWN.map(|m| train.stream(m).unwrap());
    assert_eq!([text.row(0), text.row(7)], [counted(1, 3), counted(22, 3)]);
    assert_eq!([audio.row(0), audio.row(7)], [counted(1, 6), counted(43, 6)]);
    assert_eq!([vision.row(0), vision.row(7)], [counted(1, 8), counted(57, 8)]);
    assert_eq!([audio.len(0), audio.len(1), audio.len(2), audio.len(3)], [1, 2, 3, 1]);
    assert_eq!([vision.len(0), vision.len(1), vision.len(2)], [1, 2, 1]);
    assert_eq!((0..8).filter(|row| vision.missing(*row)).collect::<Vec<_>>(), [3, 7]);
    assert_eq!(train.labels().unwrap(), [-2.0, -1.0, 0.0, 1.0, 2.0, -2.0, -1.0, 0.0]);
    assert_eq!(train.text_bert().unwrap().ids(7).collect::<Vec<_>>(), [101, 7, 102, 0]);
    // The strings beside the file come with it, and so do the names of its targets.
    assert_eq!(train.ids().unwrap()[7], "train7");
    assert_eq!(of(&data, SplitName::Test).raw_text().unwrap(), ["so"; 4]);
    let was = |field: &str| report.tensors.iter().find(|t| t.field == field).unwrap().from.clone();
    assert_eq!(["audio", "vision", "text"].map(was), ["bf16", "f2", "f8"]);
    let path = field("types.safetensors");
    let place = folder();
    let out = place.path().join("out.safetensors");
    import(&path, &out, &Options::default(), &mut |_, _| {}).unwrap();
    let side = std::fs::read_to_string(out.with_extension("json")).unwrap();
    assert!(side.contains(r#""target_names":["sentiment"]"#), "{side}");
    // Before that it is no data set, and what makes it one is said.
    let why = Dataset::open(&path).unwrap_err().to_string();
    let command = format!("modalign import {} --out NAME.safetensors", path.display());
    assert!(why.contains("train.text holds F64 values") && why.contains(&command), "{why}");
}

#[test]
fn tensors_by_other_names_are_found() {
    let (_, data) = read("nested.safetensors");
    for (name, rows) in [(SplitName::Train, 8), (SplitName::Valid, 4), (SplitName::Test, 4)] {
        let split = of(&data, name);
        let audio = split.stream(Modality::Audio).unwrap();
        assert_eq!((split.rows(), audio.row(1)), (rows, counted(7, 6)));
        assert_eq!(split.labels().unwrap()[..3], [-2.0, -1.0, 0.0]);
    }
    let place = folder();
    let map = place.path().join("map.toml");
    let fields = "[fields]\nvision = 'features/{split}/acoustic'\n";
    std::fs::write(&map, fields).unwrap();
    let options = Options { map: Some(map), ..Options::default() };
    let (_, data) = with(&field("nested.safetensors"), &options).unwrap();
    assert_eq!(data.modalities(), [Modality::Vision]);
}

/// Tables of steps by a map of `tests/fixtures/field/steps`.
fn steps(map: &str) -> Result<(Report, Dataset), String> {
    let map = Some(field("steps").join(map));
    with(&field("steps"), &Options { map, ..Options::default() })
}

#[test]
fn a_first_line_of_numbers_is_a_step() {
    for map in
        ["covarep.toml", "tabs.toml", "savetxt.toml", "opensmile.toml", "whole.toml", "pandas.toml"]
    {
        let (report, data) = steps(map).unwrap_or_else(|why| panic!("{map}: {why}"));
        let train = of(&data, SplitName::Train).stream(Modality::Audio).unwrap();
        assert_eq!((train.steps, train.dim, train.len(0), train.len(1)), (5, 3, 2, 3), "{map}");
        assert_eq!(train.row(0)[..6], counted(1, 6), "{map}");
        assert_eq!(train.row(1)[..9], counted(101, 9), "{map}");
        let test = of(&data, SplitName::Test).stream(Modality::Audio).unwrap();
        assert_eq!(test.row(0), counted(301, 15), "{map}");
        let said = |words: &str| report.notes.iter().any(|note| note.contains(words));
        assert_eq!(said("name, frameTime left out: no features"), map == "whole.toml", "{map}");
        assert_eq!(said("the index left out: no features"), map == "pandas.toml", "{map}");
        assert_eq!(said("taken for names"), map == "pandas.toml", "{map}");
    }
    let (_, data) = steps("columns.toml").unwrap();
    let train = of(&data, SplitName::Train).stream(Modality::Audio).unwrap();
    assert_eq!(train.row(0)[..6], [3.0, 1.0, 2.0, 6.0, 4.0, 5.0]);
}

#[test]
fn columns_go_by_number_where_they_have_no_names() {
    let place = folder();
    let by = |fields: &str| {
        let map = place.path().join("map.toml");
        std::fs::write(&map, fields).unwrap();
        with(&field("steps"), &Options { map: Some(map), ..Options::default() })
    };
    let bare = "split = 'bare.csv:2'\n[fields]\nid = 'bare.csv:0'\nregression_labels = 'bare.csv:1'\n\
                audio = 'covarep/{id}.csv:AU'\n";
    // A line with words in it is taken for names, as it has to be: then none is called 2.
    let why = by(bare).unwrap_err();
    assert!(why.contains("bare.csv:2") && why.contains("no column '2', did you mean"), "{why}");
    let named = bare.replace("bare.csv:2", "meta.csv:split").replace("bare.csv:0", "meta.csv:id");
    let named = named.replace("bare.csv:1", "meta.csv:label");
    let why = by(&named).unwrap_err();
    assert!(why.contains("no column 'AU': its first line is of numbers"), "{why}");
    let why = by(&named.replace("csv:AU", "csv:3")).unwrap_err();
    assert!(why.contains("columns go by number, here from 0 to 2"), "{why}");
}

#[test]
fn families_of_columns_and_frames_without_a_face() {
    let (report, data) = steps("openface.toml").unwrap();
    assert_eq!(data.modalities(), [Modality::Vision]);
    let train = of(&data, SplitName::Train).stream(Modality::Vision).unwrap();
    assert_eq!((train.dim, train.len(0)), (4, 2));
    assert_eq!(train.row(0)[..8], [2.0, 3.0, 1.0, -1.0, 5.0, 6.0, 4.0, -4.0]);
    assert!(!train.missing(0) && train.missing(1));
    let valid = of(&data, SplitName::Valid).stream(Modality::Vision).unwrap();
    assert_eq!((valid.len(0), valid.missing(0)), (4, false));
    assert_eq!(valid.row(0)[..8], [202.0, 203.0, 201.0, -201.0, 0.0, 0.0, 0.0, 0.0]);
    assert_eq!(valid.row(0)[8..12], [208.0, 209.0, 207.0, -207.0]);
    let said = |words: &str| report.notes.iter().any(|note| note.contains(words));
    assert!(
        said("3 of 5 lines have success 0, no face was found: their values are 0"),
        "{report:?}"
    );
    assert!(said("1 of 4 lines have success 0"), "{report:?}");
    assert!(said("train.vision: 1 of 2 rows have no step (row 1): they are said to lack it"));
}

#[test]
fn tables_of_one_field_have_the_same_columns() {
    let place = folder();
    let steps = place.path();
    std::fs::write(steps.join("meta.csv"), "id,label,split\na,1,train\nb,-1,train\n").unwrap();
    let map = "split = 'meta.csv:split'\n[fields]\nid = 'meta.csv:id'\n\
               regression_labels = 'meta.csv:label'\nvision = '{id}.csv'\n";
    std::fs::write(steps.join("map.toml"), map).unwrap();
    let said = |a: &str, b: &str| {
        std::fs::write(steps.join("a.csv"), a).unwrap();
        std::fs::write(steps.join("b.csv"), b).unwrap();
        let options = Options { map: Some(steps.join("map.toml")), ..Options::default() };
        with(steps, &options).map(|_| String::new()).unwrap_or_else(|why| why)
    };
    assert_eq!(said("x,y\n1,2\n", "x,y\n3,4\n"), "");
    let why = said("x,y\n1,2\n", "y,x\n3,4\n");
    assert!(why.contains("b.csv: its columns are called y, x where those of the first"), "{why}");
    let why = said("x,y\n1,2\n", "3,4\n");
    assert!(why.contains("called nothing: the first line is of numbers"), "{why}");
    let why = said("1,2\n3,4\n5\n", "3,4\n");
    assert!(why.contains("a.csv") && why.contains("line: 3"), "{why}");
    let why = said("1 2\n3\n", "3 4\n");
    assert!(why.contains("line 2 has 1 cells where the first line has 2"), "{why}");
    let faces = "frame,face_id,confidence,success,AU01_r\n1,0,1,1,2\n1,1,1,1,3\n";
    let why = said(faces, faces);
    assert!(why.contains("line 2 below the header is of face_id 1"), "{why}");
    let none = "frame,face_id,confidence,success,AU01_r\n1,0,0,0,0\n";
    assert!(said(none, none).contains("no row has a step"));
    assert!(said("", "1,2\n").contains("a.csv: the table is empty"));
    let why = said("x,\"y\n1,2\n", "x,y\n1,2\n");
    assert!(!why.contains('\n') && why.contains("no line") | why.contains("columns"), "{why}");
}

#[test]
fn hdf5_of_two_versions_is_read() {
    for name in ["earliest.h5", "v110.h5"] {
        let (report, data) = read(name);
        assert!(report.left.is_empty() && report.notes.is_empty(), "{report:?}");
        for (split, rows) in [(SplitName::Train, 8), (SplitName::Test, 4)] {
            let split = of(&data, split);
            assert_eq!(split.rows(), rows);
            let [text, audio, vision] = Modality::KNOWN.map(|m| split.stream(m).unwrap());
            for row in 0..rows {
                assert_eq!(audio.row(row), counted(1 + 6 * row, 6), "{name}");
                assert_eq!(vision.row(row), counted(1 + 8 * row, 8), "{name}, in chunks");
                assert_eq!(text.row(row), counted(1 + 6 * row, 6), "{name}, halves, big end first");
                // A row that lacks the modality has one step, which nothing reads.
                let (lacks, steps) = (row % 4 == 3, 1 + row % 3);
                assert_eq!(audio.missing(row), lacks, "{name}");
                assert_eq!(audio.len(row), if lacks { 1 } else { steps }, "{name}");
            }
            assert_eq!(split.labels().unwrap()[..3], [-2.0, -1.0, 0.0]);
            assert_eq!(split.ids().unwrap()[3], "c3");
        }
        assert!(report.texts.contains(&"test.annotations".to_string()), "{:?}", report.texts);
    }
}

#[test]
fn matlab_has_its_axes_the_other_way_round() {
    let (_, data) = read("matlab.mat");
    let train = of(&data, SplitName::Train);
    let [text, audio, vision] = Modality::KNOWN.map(|m| train.stream(m).unwrap());
    for row in 0..8 {
        assert_eq!(audio.row(row), counted(1 + 6 * row, 6));
        assert_eq!(text.row(row), counted(1 + 6 * row, 6));
        assert_eq!((vision.len(row), vision.row(row)[..2].to_vec()), (1 + row % 3, counted(1, 2)));
    }
    assert_eq!(vision.row(2), counted(1, 6));
    assert_eq!(train.labels().unwrap(), [-2.0, -1.0, 0.0, 1.0, 2.0, -2.0, -1.0, 0.0]);
    assert_eq!(train.ids().unwrap()[7], "m7");
}

#[test]
fn what_a_sequence_of_cmu_is_and_lacks_is_said() {
    let why = converted("words.csd", None).unwrap_err();
    let wanted = "a computational sequence of CMU-MultimodalSDK, 'words' of 2 videos";
    assert!(why.contains(wanted) && why.contains("neither splits nor labels"), "{why}");
    let place = folder();
    let old = place.path().join("old.mat");
    std::fs::write(&old, "MATLAB 5.0 MAT-file, Platform: GLNXA64").unwrap();
    let why = with(&old, &Options::default()).unwrap_err();
    assert!(why.contains("save it again with '-v7.3'"), "{why}");
}
