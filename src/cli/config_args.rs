//! The options that make a configuration: a preset, a file over it, settings over both.

use crate::error::{Error, Result};
use crate::recipe::Config;
use clap::Args;
use std::path::PathBuf;

/// Options shared by the verbs that build a model.
#[derive(Args, Default)]
pub(super) struct ConfigArgs {
    /// Which model; `modalign models` lists them (model.name) [default: self_mm]
    #[arg(short, long, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// Begin with the settings of mosi, mosei, sims or simsv2 [default: mosi]
    #[arg(long, value_name = "NAME")]
    pub(super) preset: Option<String>,
    /// Change settings by a TOML file (a run's config.toml is one)
    #[arg(long, value_name = "FILE.toml")]
    pub(super) config: Option<PathBuf>,
    /// Read the text with the pretrained encoder in this Hugging Face folder, and fine-tune it
    /// (model.text_encoder=bert, bert.path)
    #[arg(long, value_name = "FOLDER")]
    pub(super) bert: Option<PathBuf>,
    /// Change one setting, as often as needed; `modalign inspect --keys` lists them
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub(super) settings: Vec<String>,
}

impl ConfigArgs {
    /// The configuration, with `last` set after everything else.
    ///
    /// # Errors
    /// An unreadable file, an unknown preset or key, an impossible value.
    pub(super) fn build(&self, last: &[String]) -> Result<Config> {
        let file = match &self.config {
            Some(path) => Some(std::fs::read_to_string(path).map_err(Error::io("read", path))?),
            None => None,
        };
        let encoder = self.bert.iter().flat_map(|folder| {
            // A run is continued from anywhere.
            let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
            ["model.text_encoder=bert".to_string(), format!("bert.path={}", folder.display())]
        });
        let model = self.model.iter().map(|name| format!("model.name={name}"));
        let settings: Vec<String> = model
            .chain(encoder)
            .chain(self.settings.iter().cloned())
            .chain(last.iter().cloned())
            .collect();
        let preset = self.preset.as_deref().unwrap_or("mosi");
        let config = Config::build(preset, file.as_deref(), &settings)?;
        match (&self.preset, &self.config) {
            // A file may say what it began as; two beginnings cannot both hold.
            (Some(wanted), Some(path)) if *wanted != config.preset => Err(Error::Config(format!(
                "--preset {wanted}, but {} has preset = \"{}\": leave one out",
                path.display(),
                config.preset
            ))),
            _ => Ok(config),
        }
    }
}
