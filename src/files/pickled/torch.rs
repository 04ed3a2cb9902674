//! What pickles of PyTorch's tensors may call, and what comes of it: descriptions, never code.

use super::Fault;
use super::numpy::{self, Callable, Made, count};
use super::pickle::{Machine, Object, Span, Value};

/// What the numbers of a tensor are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    F64,
    F32,
    F16,
    Bf16,
    /// Integers and truth values of so many bytes, which are no parameters.
    Whole(usize),
}

impl Item {
    /// Bytes of one.
    pub(crate) fn size(self) -> usize {
        match self {
            Item::F64 => 8,
            Item::F32 => 4,
            Item::F16 | Item::Bf16 => 2,
            Item::Whole(size) => size,
        }
    }
}

/// The functions and classes of PyTorch that a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Torch {
    /// `torch._utils._rebuild_tensor_v2`: a tensor of a storage.
    Tensor,
    /// `torch._utils._rebuild_parameter`: a tensor that is trained.
    Parameter,
    /// A class of storages, only in what says where one is.
    Storage(Item),
}

/// The allow-list beside numpy's. Everything else is refused.
pub(crate) fn callable(module: &str, name: &str) -> Option<Callable> {
    let item = |class: &str| {
        Some(match class {
            "DoubleStorage" => Item::F64,
            "FloatStorage" => Item::F32,
            "HalfStorage" => Item::F16,
            "BFloat16Storage" => Item::Bf16,
            "LongStorage" => Item::Whole(8),
            "IntStorage" => Item::Whole(4),
            "ShortStorage" => Item::Whole(2),
            "CharStorage" | "ByteStorage" | "BoolStorage" => Item::Whole(1),
            _ => return None,
        })
    };
    let found = match (module, name) {
        ("torch._utils", "_rebuild_tensor_v2") => Torch::Tensor,
        ("torch._utils", "_rebuild_parameter") => Torch::Parameter,
        ("torch", class) => Torch::Storage(item(class)?),
        _ => return None,
    };
    Some(Callable::Torch(found))
}

/// Where the numbers of some tensors are, as a pickle describes it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Storage {
    pub(crate) item: Item,
    /// Its name in the archive.
    pub(crate) key: Span,
    /// How many there are.
    pub(crate) len: usize,
}

/// A tensor as a pickle describes it; it lies within its storage.
#[derive(Debug)]
pub(crate) struct Tensor {
    pub(crate) storage: Storage,
    /// In items.
    pub(crate) offset: usize,
    pub(crate) shape: Vec<usize>,
    /// In items.
    pub(crate) strides: Vec<usize>,
}

/// What a persistent id says: `("storage", class, name, device, items)`, and nothing of use behind it.
pub(crate) fn storage(machine: &Machine, id: Value) -> Result<Storage, Fault> {
    match numpy::tuple_of(machine, id) {
        Some(
            &[
                kind,
                Value::Callable(Callable::Torch(Torch::Storage(item))),
                Value::Text(key),
                _,
                Value::Int(len),
                ..,
            ],
        ) if numpy::text_of(machine, kind) == Some("storage") && len >= 0 => {
            Ok(Storage { item, key, len: usize::try_from(len).unwrap_or(usize::MAX) })
        }
        _ => {
            Err(machine
                .fault("it refers to something outside the file that is no storage of a tensor"))
        }
    }
}

/// Calls a function of the allow-list.
pub(crate) fn call(machine: &Machine, function: Torch, args: &[Value]) -> Result<Made, Fault> {
    match (function, args) {
        (Torch::Tensor, &[Value::Object(at), Value::Int(offset), shape, strides, ..]) => {
            let Some(Object::Storage(storage)) = machine.objects.get(at as usize) else {
                return Err(machine.fault("a tensor without a storage: the pickle is damaged"));
            };
            let (shape, strides) =
                (numpy::shape_of(machine, shape)?, numpy::shape_of(machine, strides)?);
            let tensor = usize::try_from(offset)
                .ok()
                .and_then(|offset| Tensor { storage: *storage, offset, shape, strides }.within());
            let tensor = tensor.ok_or_else(|| {
                machine.fault("a tensor that does not lie in its storage: it is damaged")
            })?;
            Ok(Made::Object(Object::Tensor(Box::new(tensor))))
        }
        (Torch::Parameter, &[tensor @ Value::Object(at), ..])
            if matches!(machine.objects.get(at as usize), Some(Object::Tensor(_))) =>
        {
            Ok(Made::Value(tensor))
        }
        _ => Err(machine.fault(format!(
            "calls {function:?} in a way that PyTorch does not: the pickle is damaged"
        ))),
    }
}

impl Tensor {
    /// The same, where all its items lie in its storage, and are no more than that has: one that repeats
    /// itself could be of any size.
    fn within(self) -> Option<Tensor> {
        let items = count(&self.shape)?;
        if self.strides.len() != self.shape.len() || items > self.storage.len {
            return None;
        }
        let mut last = self.offset;
        for (axis, stride) in self.shape.iter().zip(&self.strides) {
            last = last.checked_add(axis.saturating_sub(1).checked_mul(*stride)?)?;
        }
        (items == 0 || last < self.storage.len).then_some(self)
    }
}
