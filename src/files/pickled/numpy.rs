//! What pickles of numpy arrays may call, and what comes of it: descriptions, never code.

use super::pickle::{Machine, Object, Span, Value};
use super::torch::Torch;
use super::{DType, Fault, Kind};

/// The functions that a pickle may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callable {
    /// `numpy.core.multiarray._reconstruct`: an array, to be filled by its state.
    Reconstruct,
    /// `numpy.core.multiarray.scalar`: one number.
    Scalar,
    /// `numpy.core.numeric._frombuffer`: an array, of protocol 5.
    FromBuffer,
    /// `numpy.ndarray`, only as an argument.
    NdArray,
    /// `numpy.dtype`.
    DType,
    /// `_codecs.encode`: bytes, of protocol 2.
    Encode,
    /// `bytes`, of protocol 2, where they are empty.
    Bytes,
    /// `bytearray`, before protocol 5.
    ByteArray,
    /// `collections.OrderedDict` and `collections.defaultdict`: dicts, whose entries follow.
    Dict,
    /// What a defaultdict makes of a key that is not there, only as its argument.
    Factory,
    /// Of PyTorch.
    Torch(Torch),
}

/// The allow-list, with the names of numpy 1 and 2. Everything else is refused.
pub(crate) fn callable(module: &str, name: &str) -> Option<Callable> {
    Some(match (module, name) {
        ("numpy.core.multiarray" | "numpy._core.multiarray", "_reconstruct") => {
            Callable::Reconstruct
        }
        ("numpy.core.multiarray" | "numpy._core.multiarray", "scalar") => Callable::Scalar,
        ("numpy.core.numeric" | "numpy._core.numeric", "_frombuffer") => Callable::FromBuffer,
        ("numpy", "ndarray") => Callable::NdArray,
        ("numpy", "dtype") => Callable::DType,
        ("_codecs", "encode") => Callable::Encode,
        ("builtins" | "__builtin__", "bytes") => Callable::Bytes,
        ("builtins" | "__builtin__", "bytearray") => Callable::ByteArray,
        ("collections", "OrderedDict" | "defaultdict") => Callable::Dict,
        (
            "builtins" | "__builtin__",
            "dict" | "list" | "tuple" | "set" | "int" | "float" | "str" | "bool",
        ) => Callable::Factory,
        _ => return None,
    })
}

/// An array as a pickle describes it.
#[derive(Debug)]
pub(crate) struct NdArray {
    pub(crate) dtype: DType,
    pub(crate) shape: Vec<usize>,
    /// In items.
    pub(crate) strides: Vec<usize>,
    /// Bytes, or a list where the items are objects.
    pub(crate) payload: Value,
}

/// What a description takes in memory, at most.
pub(crate) const ARRAY_BYTES: usize = size_of::<NdArray>() + 2 * MOST_AXES * size_of::<usize>();

/// Axes that numpy itself allows.
const MOST_AXES: usize = 32;

/// What a call gives.
pub(crate) enum Made {
    Value(Value),
    Object(Object),
}

/// Calls a function of the allow-list.
pub(crate) fn call(machine: &Machine, callable: Callable, args: &[Value]) -> Result<Made, Fault> {
    let empty = Span { start: 0, len: 0 };
    let object = match (callable, args) {
        (Callable::Encode, &[Value::Text(text), codec]) => {
            return match text_of(machine, codec) {
                Some("latin1" | "latin-1" | "iso-8859-1") => Ok(Made::Value(Value::Latin(text))),
                _ => Err(machine.fault("encodes bytes by something else than latin-1")),
            };
        }
        (Callable::Bytes | Callable::ByteArray, &[]) => {
            return Ok(Made::Value(Value::Bytes(empty)));
        }
        (
            Callable::Bytes | Callable::ByteArray,
            &[bytes @ (Value::Bytes(_) | Value::Latin(_)), ..],
        ) => {
            return Ok(Made::Value(bytes));
        }
        // An old spelling: bytearray of a text and its encoding.
        (Callable::ByteArray, &[Value::Text(text), codec]) => {
            return match text_of(machine, codec) {
                Some("latin1" | "latin-1" | "iso-8859-1") => Ok(Made::Value(Value::Latin(text))),
                _ => Err(machine.fault("encodes bytes by something else than latin-1")),
            };
        }
        (
            Callable::Dict,
            &[] | &[Value::None | Value::Callable(Callable::Factory | Callable::Dict)],
        ) => Object::Dict(Vec::new()),
        // Python 2 gives an OrderedDict its entries at once, each a list of two.
        (Callable::Dict, &[Value::Object(at)]) => Object::Dict(pairs(machine, at)?),
        (Callable::DType, &[name, ..]) => {
            let name = text_of(machine, name).unwrap_or_default();
            Object::DType(DType::named(name).unwrap_or(DType::OTHER))
        }
        (Callable::Reconstruct, &[Value::Callable(Callable::NdArray), ..]) => Object::Blank,
        (Callable::Scalar, &[dtype, payload @ (Value::Bytes(_) | Value::Latin(_))]) => {
            Object::Scalar(dtype_of(machine, dtype)?, payload)
        }
        (Callable::FromBuffer, &[payload, dtype, shape, order, ref axes @ ..]) => {
            let (dtype, shape) = (dtype_of(machine, dtype)?, shape_of(machine, shape)?);
            let strides = match (text_of(machine, order), axes) {
                (Some("C"), _) => c_strides(&shape),
                (Some("F"), _) => f_strides(&shape),
                (Some("K"), &[axes]) => {
                    let axes = shape_of(machine, axes)?;
                    return transposed(machine, dtype, shape, &axes, payload);
                }
                _ => return Err(machine.fault("an array of an order that is none of C, F and K")),
            };
            array(machine, dtype, shape, strides, payload)?
        }
        _ => {
            return Err(machine.fault(format!(
                "calls {callable:?} in a way that numpy does not: the pickle is damaged, or of a \
                 subclass of numpy's arrays; convert it with numpy.asarray and save it again"
            )));
        }
    };
    Ok(Made::Object(object))
}

/// The entries of a list of pairs.
fn pairs(machine: &Machine, at: u32) -> Result<Vec<(Value, Value)>, Fault> {
    let items = |value: Value| match value {
        Value::Object(at) => match machine.objects.get(at as usize) {
            Some(Object::List(items) | Object::Tuple(items)) => Some(items.as_slice()),
            _ => None,
        },
        _ => None,
    };
    let entries =
        items(Value::Object(at)).unwrap_or_default().iter().map(|pair| match items(*pair) {
            Some([key, value]) => Ok((*key, *value)),
            _ => Err(machine.fault("an OrderedDict of something that is no pair: it is damaged")),
        });
    entries.collect()
}

/// Sets the state of object `at`: of an array its shape and payload, of a type its byte order.
pub(crate) fn state(machine: &Machine, at: u32, state: Value) -> Result<Object, Fault> {
    let Some(state) = tuple_of(machine, state) else {
        return Err(machine.fault("sets a state that is no tuple: the pickle is damaged"));
    };
    match (machine.objects.get(at as usize), state) {
        (Some(Object::DType(dtype)), &[Value::Int(_), order, subtype, names, ..]) => {
            if subtype != Value::None || names != Value::None {
                return Ok(Object::DType(DType::OTHER));
            }
            let big = match text_of(machine, order) {
                Some("<" | "|") => false,
                Some("=") => cfg!(target_endian = "big"),
                Some(">") => true,
                _ => return Err(machine.fault("a byte order that is none of <, >, | and =")),
            };
            Ok(Object::DType(DType { big, ..*dtype }))
        }
        (Some(Object::Blank), &[Value::Int(_), shape, dtype, fortran, payload]) => {
            let (shape, dtype) = (shape_of(machine, shape)?, dtype_of(machine, dtype)?);
            let fortran = matches!(fortran, Value::Bool(true) | Value::Int(1));
            let strides = if fortran { f_strides(&shape) } else { c_strides(&shape) };
            array(machine, dtype, shape, strides, payload)
        }
        _ => Err(machine.fault(
            "sets the state of something that is neither an array nor its type: the pickle is \
             damaged",
        )),
    }
}

/// An array whose payload is as long as its shape says.
fn array(
    machine: &Machine,
    dtype: DType,
    shape: Vec<usize>,
    strides: Vec<usize>,
    payload: Value,
) -> Result<Object, Fault> {
    let items = count(&shape).ok_or_else(|| machine.fault("a shape beyond what can be counted"))?;
    let bytes = items.saturating_mul(dtype.size);
    let (found, fits) = match payload {
        Value::Bytes(span) => (span.len, span.len == bytes || dtype.kind == Kind::Other),
        // A byte is one or two bytes of text.
        Value::Latin(Span { len, .. }) => {
            (len, (len.div_ceil(2)..=len).contains(&bytes) || dtype.kind == Kind::Other)
        }
        Value::Object(at) => match machine.objects.get(at as usize) {
            Some(Object::List(list)) if dtype.kind == Kind::Object => {
                (list.len(), list.len() == items)
            }
            _ => (0, false),
        },
        _ => (0, false),
    };
    if !fits {
        return Err(machine.fault(format!(
            "an array of shape {shape:?} and type {dtype} wants {bytes} bytes and has {found}: the \
             pickle is damaged"
        )));
    }
    Ok(Object::Array(Box::new(NdArray { dtype, shape, strides, payload })))
}

/// Protocol 5's arrays of another order of axes: `axes[i]` is which axis of `shape` comes i-th.
fn transposed(
    machine: &Machine,
    dtype: DType,
    shape: Vec<usize>,
    axes: &[usize],
    payload: Value,
) -> Result<Made, Fault> {
    let mut seen = vec![false; shape.len()];
    for &axis in axes {
        match seen.get_mut(axis) {
            Some(seen) if !*seen => *seen = true,
            _ => return Err(machine.fault("an order of axes that is none: it is damaged")),
        }
    }
    if axes.len() != shape.len() {
        return Err(machine.fault("an order of axes that is none: it is damaged"));
    }
    let strides = c_strides(&shape);
    let strides = axes.iter().map(|a| strides[*a]).collect();
    let shape = axes.iter().map(|a| shape[*a]).collect();
    array(machine, dtype, shape, strides, payload).map(Made::Object)
}

/// The product of a shape, where it can be counted.
pub(crate) fn count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis))
}

/// Strides in items, the last axis the fastest.
pub(crate) fn c_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in (1..shape.len()).rev() {
        strides[axis - 1] = strides[axis].saturating_mul(shape[axis]);
    }
    strides
}

/// Strides in items, the first axis the fastest.
pub(crate) fn f_strides(shape: &[usize]) -> Vec<usize> {
    let mut strides = vec![1usize; shape.len()];
    for axis in 1..shape.len() {
        strides[axis] = strides[axis - 1].saturating_mul(shape[axis - 1]);
    }
    strides
}

pub(crate) fn tuple_of<'m>(machine: &'m Machine, value: Value) -> Option<&'m [Value]> {
    let Value::Object(at) = value else { return None };
    match machine.objects.get(at as usize)? {
        Object::Tuple(items) => Some(items),
        _ => None,
    }
}

pub(crate) fn text_of<'m>(machine: &Machine<'m, '_>, value: Value) -> Option<&'m str> {
    let (Value::Text(span) | Value::Bytes(span)) = value else { return None };
    std::str::from_utf8(machine.bytes.get(span.start..span.start + span.len)?).ok()
}

fn dtype_of(machine: &Machine, value: Value) -> Result<DType, Fault> {
    let Value::Object(at) = value else { return Err(machine.fault("an array without a type")) };
    match machine.objects.get(at as usize) {
        Some(Object::DType(dtype)) => Ok(*dtype),
        _ => Err(machine.fault("an array without a type: the pickle is damaged")),
    }
}

pub(crate) fn shape_of(machine: &Machine, value: Value) -> Result<Vec<usize>, Fault> {
    let single = [value];
    let items = match value {
        // numpy takes a single number for a shape of one axis.
        Value::Int(_) => &single[..],
        _ => tuple_of(machine, value).unwrap_or(&[Value::None]),
    };
    let axes: Option<Vec<usize>> = (items.len() <= MOST_AXES)
        .then(|| {
            items.iter().map(|item| match item {
                Value::Int(n) => usize::try_from(*n).ok(),
                _ => None,
            })
        })
        .and_then(|axes| axes.collect());
    axes.ok_or_else(|| machine.fault("a shape that is no tuple of sizes: the pickle is damaged"))
}
