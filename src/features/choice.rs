//! Which features are computed: groups of columns, by name.

use super::{CHROMA, FRAME, HOP, MFCC, RATE, tables};
use crate::data::Acoustic;
use crate::error::{Error, Result, nearest};
use std::fmt;

/// A group of features: one number or several for each row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// The share of samples at which the sign changes.
    Zcr,
    /// Mel-frequency cepstral coefficients.
    Mfcc,
    /// How loud each of the twelve notes is, the loudest 1.
    Chroma,
    /// Mel bands in decibels, down to 80 below the loudest of the recording.
    LogMel,
    /// The root mean square of the samples.
    Rms,
    /// The mean frequency of the spectrum, Hz.
    Centroid,
    /// How far frequencies are from it, Hz.
    Bandwidth,
    /// The frequency below which 85 % of the magnitudes are, Hz.
    Rolloff,
    /// 1 of white noise, 0 of a tone.
    Flatness,
    /// Decibels from valleys to peaks, in seven bands an octave apart.
    Contrast,
    /// The pitch, Hz, 0 where there is none, and how far the sound repeats after its period, from 0 to 1.
    F0,
    /// First differences of all that is chosen besides.
    Delta,
    /// Second differences of the same.
    Delta2,
}

impl Group {
    /// All of them.
    pub const ALL: [Group; 13] = [
        Group::Zcr,
        Group::Mfcc,
        Group::Chroma,
        Group::LogMel,
        Group::Rms,
        Group::Centroid,
        Group::Bandwidth,
        Group::Rolloff,
        Group::Flatness,
        Group::Contrast,
        Group::F0,
        Group::Delta,
        Group::Delta2,
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Group::Zcr => "zcr",
            Group::Mfcc => "mfcc",
            Group::Chroma => "chroma",
            Group::LogMel => "logmel",
            Group::Rms => "rms",
            Group::Centroid => "centroid",
            Group::Bandwidth => "bandwidth",
            Group::Rolloff => "rolloff",
            Group::Flatness => "flatness",
            Group::Contrast => "contrast",
            Group::F0 => "f0",
            Group::Delta => "delta",
            Group::Delta2 => "delta2",
        }
    }

    /// The names of its columns; none of differences, which are those of others.
    fn columns(self) -> Vec<String> {
        const NOTES: [&str; CHROMA] = [
            "c", "c_sharp", "d", "d_sharp", "e", "f", "f_sharp", "g", "g_sharp", "a", "a_sharp",
            "b",
        ];
        let numbered = |name: &str, count| (0..count).map(|k| format!("{name}_{k}")).collect();
        match self {
            Group::Zcr => vec!["zero_crossing_rate".into()],
            Group::Mfcc => numbered("mfcc", MFCC),
            Group::Chroma => NOTES.iter().map(|note| format!("chroma_{note}")).collect(),
            Group::LogMel => numbered("logmel", tables::MELS),
            Group::Rms => vec!["rms".into()],
            Group::Centroid | Group::Bandwidth | Group::Rolloff | Group::Flatness => {
                vec![format!("spectral_{}", self.name())]
            }
            Group::Contrast => numbered("spectral_contrast", tables::CONTRAST),
            Group::F0 => vec!["f0".into(), "voicing".into()],
            Group::Delta | Group::Delta2 => Vec::new(),
        }
    }

    /// How many times it is differentiated; nothing where it is a feature itself.
    fn order(self) -> Option<usize> {
        match self {
            Group::Delta => Some(1),
            Group::Delta2 => Some(2),
            _ => None,
        }
    }
}

/// The features to compute, in order. Differences come behind all others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    groups: Vec<Group>,
}

/// The features of the SIMS data sets: zero-crossing rate, MFCC, chroma.
impl Default for Choice {
    fn default() -> Self {
        Choice { groups: vec![Group::Zcr, Group::Mfcc, Group::Chroma] }
    }
}

impl Choice {
    /// The groups of these names, as [`Group::name`] has them.
    ///
    /// # Errors
    /// [`Error::Config`]: no group of that name, which the nearest one is said for; one that comes twice;
    /// differences of nothing.
    pub fn of(names: &[impl AsRef<str>]) -> Result<Choice> {
        let mut groups = Vec::with_capacity(names.len());
        for name in names.iter().map(|name| name.as_ref().trim()) {
            let Some(group) = Group::ALL.into_iter().find(|group| group.name() == name) else {
                let known = Group::ALL.map(Group::name);
                return Err(Error::Config(format!(
                    "no features are called '{name}'; did you mean '{}'? There are {}",
                    nearest(name, known.into_iter()),
                    known.join(", ")
                )));
            };
            if groups.contains(&group) {
                let detail = format!("the features '{name}' are named twice; name them once");
                return Err(Error::Config(detail));
            }
            groups.push(group);
        }
        if groups.iter().all(|group| group.order().is_some()) {
            let detail = "delta and delta2 are differences of other features: name those, too";
            return Err(Error::Config(detail.into()));
        }
        // A stable sort: the others stay in the order that was asked for.
        groups.sort_by_key(|group| group.order());
        Ok(Choice { groups })
    }

    /// The groups in the order of their columns.
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// Whether a group was chosen.
    pub fn has(&self, group: Group) -> bool {
        self.groups.contains(&group)
    }

    /// The features that are no differences, each with its first column and how many it has.
    pub(super) fn places(&self) -> impl Iterator<Item = (Group, usize, usize)> {
        let own = self.groups.iter().filter(|group| group.order().is_none());
        own.scan(0, |at, group| {
            let count = group.columns().len();
            *at += count;
            Some((*group, *at - count, count))
        })
    }

    /// Columns that are no differences.
    pub(super) fn own_width(&self) -> usize {
        self.places().map(|(.., count)| count).sum()
    }

    /// Which differences there are.
    pub(super) fn orders(&self) -> impl Iterator<Item = usize> {
        self.groups.iter().filter_map(|group| group.order())
    }

    /// Numbers in a row.
    pub fn width(&self) -> usize {
        self.own_width() * (1 + self.orders().count())
    }

    /// The names of the columns.
    pub fn columns(&self) -> Vec<String> {
        let own: Vec<String> = self.groups.iter().flat_map(|group| group.columns()).collect();
        let differences = self.groups.iter().filter(|group| group.order().is_some());
        let named = differences.flat_map(|group| {
            own.iter().map(|column| format!("{}_{column}", group.name())).collect::<Vec<_>>()
        });
        let named: Vec<String> = named.collect();
        [own, named].concat()
    }

    /// What a data set says of itself that was made so.
    pub fn about(&self) -> Acoustic {
        Acoustic {
            groups: self.groups.iter().map(|group| group.name().to_string()).collect(),
            columns: self.columns(),
            rate: RATE,
            hop: HOP,
            frame: FRAME,
        }
    }

    /// The features that a data set was made of.
    ///
    /// # Errors
    /// [`Error::Config`]: features that are not computed here, or not in that way.
    pub fn made(about: &Acoustic) -> Result<Choice> {
        let choice = Choice::of(&about.groups)?;
        match choice.about() == *about {
            true => Ok(choice),
            false => Err(Error::Config(format!(
                "the features {} were computed in another way (rate {}, hop {}, {} columns): compute those of \
                 the data set anew",
                about.groups.join(","),
                about.rate,
                about.hop,
                about.columns.len()
            ))),
        }
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.groups.iter().map(|group| group.name()).collect();
        f.write_str(&names.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_named_in_the_order_asked_for() {
        let default = Choice::default();
        let names = default.columns();
        assert_eq!((names.len(), default.width()), (super::super::COLUMNS, names.len()));
        assert_eq!(
            [&names[0], &names[1], &names[32]],
            ["zero_crossing_rate", "mfcc_0", "chroma_b"]
        );
        let choice = Choice::of(&["delta2", "f0", "rms", "delta"]).unwrap();
        let wanted = ["f0", "voicing", "rms", "delta_f0", "delta_voicing", "delta_rms"];
        assert_eq!(choice.columns()[..6], wanted);
        assert_eq!(choice.columns()[6..], ["delta2_f0", "delta2_voicing", "delta2_rms"]);
        assert_eq!((choice.width(), choice.own_width()), (9, 3));
        assert_eq!(Choice::made(&choice.about()).unwrap(), choice);
        let all: Vec<&str> = Group::ALL.iter().map(|group| group.name()).collect();
        assert_eq!(Choice::of(&all).unwrap().width(), 3 * (33 + 128 + 5 + 7 + 2));
    }

    #[test]
    fn what_cannot_be_chosen_is_said() {
        let said = |names: &[&str]| Choice::of(names).unwrap_err().to_string();
        assert!(said(&["mfc"]).contains("did you mean 'mfcc'?"), "{}", said(&["mfc"]));
        assert!(said(&["pitch", "f0"]).contains("no features are called 'pitch'"));
        assert!(said(&["rms", "rms"]).contains("twice"));
        assert!(said(&["delta"]).contains("differences of other features"));
        let none: [&str; 0] = [];
        assert!(Choice::of(&none).is_err());
        let other = Acoustic { hop: 256, ..Choice::default().about() };
        let said = Choice::made(&other).unwrap_err().to_string();
        assert!(said.contains("in another way (rate 22050, hop 256"), "{said}");
    }
}
