//! Parameters by name, and the layers made of them.

mod bert;
mod groups;
mod init;
mod layers;
mod params;
mod pretrained;
mod schedule;
mod spec;
mod weights;

pub use bert::{Bert, Freeze, Reading, TokenVars};
pub use groups::{Group, Groups, Optimizer};
pub use init::Init;
pub use layers::{Head, LstmEncoder, linear, linear_specs};
pub use params::Params;
pub use pretrained::{BertShape, Pretrained};
pub use schedule::Schedule;
pub use spec::ParamSpec;
pub use weights::Weights;
pub(crate) use weights::save_tensors;
