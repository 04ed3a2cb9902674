//! Parameters by name, and the layers made of them.

mod bert;
mod init;
mod invented;
mod layers;
mod params;
mod pretrained;
mod weights;

pub use bert::{Bert, Freeze, Reading, TokenVars};
pub use init::Init;
pub use invented::invent;
pub use layers::{Head, LstmEncoder, linear, linear_specs};
pub use params::{ParamSpec, Params};
pub use pretrained::{BertShape, Pretrained};
pub use weights::Weights;
pub(crate) use weights::save_tensors;
