//! Parameters by name, and the layers made of them.

#[cfg(feature = "bert")]
mod bert;
mod init;
#[cfg(feature = "bert")]
mod invented;
mod layers;
mod params;
#[cfg(feature = "bert")]
mod pretrained;
mod weights;

#[cfg(feature = "bert")]
pub use bert::{Bert, Freeze, Reading, TokenVars};
pub use init::Init;
#[cfg(feature = "bert")]
pub use invented::invent;
pub use layers::{Head, LstmEncoder, linear, linear_specs};
pub use params::{ParamSpec, Params};
#[cfg(feature = "bert")]
pub use pretrained::{BertShape, Pretrained};
pub use weights::Weights;
#[cfg(feature = "train")]
pub(crate) use weights::save_tensors;
