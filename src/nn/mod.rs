//! Parameters by name, and the layers made of them.

#[cfg(feature = "bert")]
mod bert;
mod certainty;
pub mod contrast;
mod groups;
mod init;
#[cfg(feature = "bert")]
mod invented;
#[cfg(feature = "bert")]
mod kind;
mod layers;
mod params;
#[cfg(feature = "bert")]
mod pretrained;
pub mod pseudo;
mod schedule;
mod spec;
pub mod token_grid;
pub mod transformer;
mod weights;

#[cfg(feature = "bert")]
pub use bert::{Bert, Freeze, Reading, TokenVars};
pub use certainty::{Certainty, mean_of_present, mean_row, weigh_by_certainty};
pub use groups::{Group, Groups, Optimizer};
pub use init::Init;
#[cfg(feature = "bert")]
pub use invented::invent;
#[cfg(feature = "bert")]
pub use kind::{EncoderKind, SpecialTokens};
pub use layers::{Head, LstmEncoder, linear, linear_specs};
pub use params::Params;
#[cfg(feature = "bert")]
pub use pretrained::{BertShape, Pretrained};
pub use schedule::Schedule;
pub use spec::ParamSpec;
pub use weights::Weights;
#[cfg(feature = "train")]
pub(crate) use weights::save_tensors;
