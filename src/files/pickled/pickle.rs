//! A reader of Python pickles that runs nothing.
//!
//! A pickle is a program for a stack machine whose instructions may call any function of Python.
//! This machine knows protocols 2 to 5 as far as numpy and PyTorch need them: numbers, strings, bytes,
//! tuples, lists, dicts, sets, the memo, and calls of the names in [`numpy::callable`] and, where tensors are
//! wanted, [`torch::callable`], which build plain dicts and descriptions here. Any other name ends the reading, at its offset, before
//! anything is made of it.
//!
//! Strings, bytes and the payloads of arrays stay in the file: a value holds their range. Objects
//! lie side by side in a list and refer to each other by number, so that no depth of nesting can
//! exhaust the stack, and every allocation is charged to a [`Budget`].

use super::budget::Budget;
use super::numpy::{self, Callable};
use super::torch::{self, Storage, Tensor};
use super::{DType, Fault};

/// A range of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: usize,
    pub(crate) len: usize,
}

/// A value on the machine's stack.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value {
    None,
    Bool(bool),
    Int(i64),
    /// An integer beyond 64 bits: it may be there, but nothing can be done with it.
    Huge,
    Float(f64),
    /// UTF-8.
    Text(Span),
    Bytes(Span),
    /// Bytes that protocol 2 keeps as text, a character each.
    Latin(Span),
    Callable(Callable),
    /// A position in [`Pickle::objects`].
    Object(u32),
}

/// What a value can refer to.
#[derive(Debug)]
pub(crate) enum Object {
    List(Vec<Value>),
    Tuple(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    DType(DType),
    /// An array before its state.
    Blank,
    Array(Box<numpy::NdArray>),
    Scalar(DType, Value),
    /// Where the numbers of a tensor are.
    Storage(Storage),
    Tensor(Box<Tensor>),
}

/// A pickle that was read.
pub(crate) struct Pickle<'a> {
    pub(crate) bytes: &'a [u8],
    objects: Vec<Object>,
    root: Value,
    /// Bytes up to and with STOP.
    pub(crate) read: usize,
}

/// Containers open at once; pickles of data have three or four.
const DEEPEST: usize = 1000;

impl<'a> Pickle<'a> {
    /// Runs the machine over `bytes`.
    pub(crate) fn read(bytes: &'a [u8], budget: &mut Budget) -> Result<Pickle<'a>, Fault> {
        Self::read_as(bytes, false, budget)
    }

    /// The same, with tensors of PyTorch where they are wanted.
    pub(crate) fn read_as(
        bytes: &'a [u8],
        tensors: bool,
        budget: &mut Budget,
    ) -> Result<Pickle<'a>, Fault> {
        if bytes.first() != Some(&0x80) {
            return Err(Fault::new(
                "not a pickle of protocol 2 to 5 (it does not begin with byte 0x80), nor an .npz archive \
                 nor a .safetensors file; save it again with pickle.dump(data, file, protocol=4)",
            ));
        }
        let mut machine = Machine {
            bytes,
            at: 0,
            op: 0,
            stack: Vec::new(),
            marks: Vec::new(),
            memo: Vec::new(),
            memoised: 0,
            objects: Vec::new(),
            tensors,
            budget,
        };
        // The empty tuple is one object: pickles are full of them.
        machine.budget.push(&mut machine.objects, Object::Tuple(Vec::new()))?;
        let root = machine.run()?;
        Ok(Pickle { bytes, objects: machine.objects, root, read: machine.at })
    }

    /// The value that the pickle is of.
    pub(crate) fn root(&self) -> Value {
        self.root
    }

    /// All objects.
    pub(crate) fn objects(&self) -> &[Object] {
        &self.objects
    }

    /// The object behind a value.
    pub(crate) fn object(&self, value: Value) -> Option<&Object> {
        match value {
            Value::Object(at) => self.objects.get(at as usize),
            _ => None,
        }
    }

    /// The bytes of a span.
    pub(crate) fn span(&self, span: Span) -> &'a [u8] {
        self.bytes.get(span.start..span.start + span.len).unwrap_or_default()
    }

    /// The items of a list or tuple.
    pub(crate) fn items(&self, value: Value) -> Option<&[Value]> {
        match self.object(value)? {
            Object::List(items) | Object::Tuple(items) => Some(items),
            _ => None,
        }
    }

    /// The entries of a dict whose keys are strings; a later one of the same key holds.
    pub(crate) fn entries(&self, value: Value) -> Option<Vec<(&'a str, Value)>> {
        let Object::Dict(entries) = self.object(value)? else { return None };
        let named = entries.iter().filter_map(|(key, value)| Some((self.str(*key)?, *value)));
        Some(named.collect())
    }

    /// A string, where it is valid UTF-8.
    pub(crate) fn str(&self, value: Value) -> Option<&'a str> {
        match value {
            Value::Text(span) | Value::Bytes(span) => std::str::from_utf8(self.span(span)).ok(),
            _ => None,
        }
    }
}

pub(crate) struct Machine<'a, 'b> {
    pub(crate) bytes: &'a [u8],
    at: usize,
    /// Where the present instruction begins.
    op: usize,
    stack: Vec<Value>,
    marks: Vec<usize>,
    /// `None` where nothing was put.
    memo: Vec<Option<Value>>,
    memoised: usize,
    pub(crate) objects: Vec<Object>,
    /// Whether it may be of tensors.
    tensors: bool,
    budget: &'b mut Budget,
}

type Step<T = ()> = Result<T, Fault>;

impl<'a> Machine<'a, '_> {
    /// A fault at the present instruction.
    pub(crate) fn fault(&self, detail: impl Into<String>) -> Fault {
        Fault::at(self.op, detail)
    }

    fn take(&mut self, len: u64) -> Step<Span> {
        let start = self.at;
        let end = usize::try_from(len).ok().and_then(|len| start.checked_add(len));
        match end.filter(|end| *end <= self.bytes.len()) {
            Some(end) => {
                self.at = end;
                Ok(Span { start, len: end - start })
            }
            None => Err(self.fault(format!(
                "the file is cut short: {len} bytes are to follow, and it ends after {}; copy it \
                 again",
                self.bytes.len() - start
            ))),
        }
    }

    fn fixed<const N: usize>(&mut self) -> Step<[u8; N]> {
        let span = self.take(N as u64)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.bytes[span.start..span.start + N]);
        Ok(bytes)
    }

    fn u8(&mut self) -> Step<u64> {
        Ok(self.fixed::<1>()?[0].into())
    }

    fn u16(&mut self) -> Step<u64> {
        Ok(u16::from_le_bytes(self.fixed()?).into())
    }

    fn u32(&mut self) -> Step<u64> {
        Ok(u32::from_le_bytes(self.fixed()?).into())
    }

    fn u64(&mut self) -> Step<u64> {
        Ok(u64::from_le_bytes(self.fixed()?))
    }

    fn push(&mut self, value: Value) -> Step {
        self.budget.push(&mut self.stack, value)
    }

    fn pop(&mut self) -> Step<Value> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.fault("takes a value where there is none: the pickle is damaged"));
        }
        self.stack.pop().ok_or_else(|| self.fault("the stack is empty: the pickle is damaged"))
    }

    /// The values above the last mark, which goes.
    fn marked(&mut self) -> Step<Vec<Value>> {
        let mark = self.unmark()?;
        self.budget.charge((self.stack.len() - mark) * size_of::<Value>())?;
        Ok(self.stack.split_off(mark))
    }

    /// Keeps an object and puts it on the stack.
    fn make(&mut self, object: Object) -> Step {
        let at = u32::try_from(self.objects.len());
        let at = at.map_err(|_| self.fault("more objects than 32 bits count"))?;
        self.budget.push(&mut self.objects, object)?;
        self.push(Value::Object(at))
    }

    fn tuple(&mut self, items: Vec<Value>) -> Step {
        match items.is_empty() {
            true => self.push(Value::Object(0)),
            false => self.make(Object::Tuple(items)),
        }
    }

    fn last(&mut self, count: usize) -> Step<Vec<Value>> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let start = self.stack.len().checked_sub(count).filter(|start| *start >= floor);
        let start = start.ok_or_else(|| self.fault("too few values: the pickle is damaged"))?;
        self.budget.charge(count * size_of::<Value>())?;
        Ok(self.stack.split_off(start))
    }

    fn put(&mut self, index: u64) -> Step {
        let floor = self.marks.last().copied().unwrap_or(0);
        let Some(&value) = self.stack.last().filter(|_| self.stack.len() > floor) else {
            return Err(self.fault("nothing to remember: the pickle is damaged"));
        };
        // Every entry was made by an instruction, which took a byte at least.
        let Some(index) = usize::try_from(index).ok().filter(|at| *at < self.bytes.len()) else {
            return Err(self.fault(format!("memo entry {index} is past what the file can hold")));
        };
        if index >= self.memo.len() {
            let more = index + 1 - self.memo.len();
            self.budget.room(&mut self.memo, more)?;
            self.memo.resize(index + 1, None);
        }
        self.memoised += usize::from(self.memo[index].is_none());
        self.memo[index] = Some(value);
        Ok(())
    }

    fn get(&mut self, index: u64) -> Step {
        let found = usize::try_from(index).ok().and_then(|at| *self.memo.get(at)?);
        match found {
            Some(value) => self.push(value),
            None => Err(self.fault(format!("memo entry {index} was never made: it is damaged"))),
        }
    }

    /// Where the values above the last mark begin; the mark goes.
    fn unmark(&mut self) -> Step<usize> {
        let mark = self.marks.pop().filter(|mark| *mark <= self.stack.len());
        mark.ok_or_else(|| self.fault("there is no mark to go back to: the pickle is damaged"))
    }

    /// Moves the values from `start` on into the container below them.
    fn fill(&mut self, start: usize, dict: bool) -> Step {
        let floor = self.marks.last().copied().unwrap_or(0);
        let below = start.checked_sub(1).filter(|at| *at >= floor);
        let (Some(below), Some(items)) = (below, self.stack.get(start..)) else {
            return Err(self.fault("too few values: the pickle is damaged"));
        };
        let object = match self.stack.get(below) {
            Some(Value::Object(at)) => self.objects.get_mut(*at as usize),
            _ => None,
        };
        match object {
            Some(Object::List(list)) if !dict => {
                self.budget.room(list, items.len())?;
                list.extend_from_slice(items);
            }
            Some(Object::Dict(entries)) if dict && items.len().is_multiple_of(2) => {
                self.budget.room(entries, items.len() / 2)?;
                entries.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1])));
            }
            _ => return Err(self.fault("adds to something that is no list and no dict")),
        }
        self.stack.truncate(start);
        Ok(())
    }

    fn line(&mut self) -> Step<&'a str> {
        let rest = &self.bytes[self.at..];
        // Names of modules are short; a longer line is no name.
        let end = rest.iter().take(512).position(|b| *b == b'\n');
        let Some(end) = end else {
            return Err(match rest.len() {
                0..512 => self.fault("the file is cut short in a name; copy it again"),
                _ => self.fault("a name without an end: the pickle is damaged"),
            });
        };
        self.at += end + 1;
        std::str::from_utf8(&rest[..end]).map_err(|_| self.fault("a name that is not UTF-8"))
    }

    fn global(&mut self, module: &str, name: &str) -> Step {
        let found = numpy::callable(module, name);
        let tensors = self.tensors;
        match found.or_else(|| torch::callable(module, name).filter(|_| tensors)) {
            Some(callable) => self.push(Value::Callable(callable)),
            None => {
                let shown: String = format!("{module}.{name}").chars().take(120).collect();
                let shown = shown.escape_debug();
                if tensors {
                    return Err(self.fault(format!(
                        "it calls {shown}, which is none of the names that tensors need; nothing of it was \
                         run; do not load this file in Python unless you trust whoever made it"
                    )));
                }
                if module.split('.').next() == Some("torch") {
                    return Err(self.fault(format!(
                        "it calls {shown}, which makes a tensor of torch; nothing of it was run; \
                         save each tensor as x.numpy()"
                    )));
                }
                Err(self.fault(format!(
                    "it calls {shown}, which is none of the names that arrays, strings and \
                     numbers need; nothing of it was run; do not load this file in Python unless \
                     you trust whoever made it, and save what you need of it as plain arrays"
                )))
            }
        }
    }

    fn reduce(&mut self) -> Step {
        let (args, callable) = (self.pop()?, self.pop()?);
        let args = match args {
            Value::Object(at) => match self.objects.get(at as usize) {
                Some(Object::Tuple(args)) => args.as_slice(),
                _ => &[],
            },
            _ => return Err(self.fault("calls without a tuple of arguments: it is damaged")),
        };
        let Value::Callable(callable) = callable else {
            return Err(self.fault("calls something that is no function: the pickle is damaged"));
        };
        let made = match callable {
            Callable::Torch(function) => torch::call(self, function, args)?,
            _ => numpy::call(self, callable, args)?,
        };
        match made {
            numpy::Made::Value(value) => self.push(value),
            numpy::Made::Object(object) => {
                let entries = match &object {
                    Object::Dict(entries) => size_of_val(entries.as_slice()),
                    _ => 0,
                };
                self.budget.charge(numpy::ARRAY_BYTES + entries)?;
                self.make(object)
            }
        }
    }

    fn build(&mut self) -> Step {
        let state = self.pop()?;
        let target = self.stack.last().copied();
        let Some(Value::Object(at)) = target else {
            return Err(self.fault("sets the state of something that has none"));
        };
        // Versions of modules, which a dict of PyTorch's weights has beside its entries.
        if self.tensors && matches!(self.objects.get(at as usize), Some(Object::Dict(_))) {
            return Ok(());
        }
        let changed = numpy::state(self, at, state)?;
        self.budget.charge(numpy::ARRAY_BYTES)?;
        match self.objects.get_mut(at as usize) {
            Some(object) => *object = changed,
            None => return Err(self.fault("sets the state of nothing")),
        }
        Ok(())
    }

    fn long(&mut self, len: u64) -> Step {
        let span = self.take(len)?;
        let bytes = &self.bytes[span.start..span.start + span.len];
        if bytes.len() > 8 {
            return self.push(Value::Huge);
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut whole = if negative { [0xff; 8] } else { [0; 8] };
        whole[..bytes.len()].copy_from_slice(bytes);
        self.push(Value::Int(i64::from_le_bytes(whole)))
    }

    fn run(&mut self) -> Step<Value> {
        loop {
            self.op = self.at;
            let code = self.fixed::<1>()?[0];
            if code == b'.' {
                return self.pop();
            }
            self.step(code)?;
        }
    }

    /// One instruction.
    fn step(&mut self, code: u8) -> Step {
        match code {
            0x80 => match self.u8()? {
                version @ 0..=1 | version @ 6.. => Err(self.fault(format!(
                    "pickle protocol {version} is not 2 to 5; save it again with protocol=4"
                ))),
                _ => Ok(()),
            },
            0x95 => {
                let (start, len) = (self.at, self.u64()?);
                // Only looked at: a frame that does not fit means that the end is missing.
                let left = self.bytes.len().saturating_sub(start + 8);
                match usize::try_from(len).is_ok_and(|len| len <= left) {
                    true => Ok(()),
                    false => self.take(len).map(|_| ()),
                }
            }
            b'(' => {
                if self.marks.len() >= DEEPEST {
                    return Err(self.fault(format!("nested more than {DEEPEST} deep")));
                }
                let mark = self.stack.len();
                self.budget.push(&mut self.marks, mark)
            }
            b'0' => {
                // POP takes a mark, too, where that is on top.
                if self.marks.last() == Some(&self.stack.len()) {
                    self.marks.pop();
                    return Ok(());
                }
                self.pop().map(|_| ())
            }
            b'1' => self.marked().map(|_| ()),
            b'2' => {
                let top = self.pop()?;
                self.push(top)?;
                self.push(top)
            }
            b'N' => self.push(Value::None),
            0x88 => self.push(Value::Bool(true)),
            0x89 => self.push(Value::Bool(false)),
            b'J' => {
                let value = i32::from_le_bytes(self.fixed()?);
                self.push(Value::Int(value.into()))
            }
            b'K' => {
                let value = self.u8()?;
                self.push(Value::Int(value as i64))
            }
            b'M' => {
                let value = self.u16()?;
                self.push(Value::Int(value as i64))
            }
            0x8a => {
                let len = self.u8()?;
                self.long(len)
            }
            0x8b => {
                let len = self.u32()?;
                self.long(len)
            }
            b'G' => {
                let value = f64::from_be_bytes(self.fixed()?);
                self.push(Value::Float(value))
            }
            0x8c | b'X' | 0x8d => {
                let len = match code {
                    0x8c => self.u8()?,
                    b'X' => self.u32()?,
                    _ => self.u64()?,
                };
                let span = self.take(len)?;
                self.push(Value::Text(span))
            }
            b'C' | b'B' | 0x8e | 0x96 | b'U' | b'T' => {
                let len = match code {
                    b'C' | b'U' => self.u8()?,
                    b'B' | b'T' => self.u32()?,
                    _ => self.u64()?,
                };
                let span = self.take(len)?;
                self.push(Value::Bytes(span))
            }
            b')' => self.push(Value::Object(0)),
            b'\x85'..=b'\x87' => {
                let items = self.last(usize::from(code - 0x84))?;
                self.tuple(items)
            }
            b't' => {
                let items = self.marked()?;
                self.tuple(items)
            }
            // Sets are read as lists: their order is as arbitrary here as there.
            b']' | 0x8f => self.make(Object::List(Vec::new())),
            b'l' | 0x91 => {
                let items = self.marked()?;
                self.make(Object::List(items))
            }
            b'a' => self.fill(self.stack.len().saturating_sub(1), false),
            b'e' | 0x90 => {
                let start = self.unmark()?;
                self.fill(start, false)
            }
            b'}' => self.make(Object::Dict(Vec::new())),
            b'd' => {
                let items = self.marked()?;
                self.make(Object::Dict(Vec::new()))?;
                let start = self.stack.len();
                items.into_iter().try_for_each(|item| self.push(item))?;
                self.fill(start, true)
            }
            b's' => self.fill(self.stack.len().saturating_sub(2), true),
            b'u' => {
                let start = self.unmark()?;
                self.fill(start, true)
            }
            b'q' => {
                let index = self.u8()?;
                self.put(index)
            }
            b'r' => {
                let index = self.u32()?;
                self.put(index)
            }
            0x94 => self.put(self.memoised as u64),
            b'h' => {
                let index = self.u8()?;
                self.get(index)
            }
            b'j' => {
                let index = self.u32()?;
                self.get(index)
            }
            b'c' => {
                let (module, name) = (self.line()?, self.line()?);
                self.global(module, name)
            }
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let text = |value| match value {
                    Value::Text(Span { start, len }) if len <= 512 => {
                        std::str::from_utf8(&self.bytes[start..start + len]).ok()
                    }
                    _ => None,
                };
                match (text(module), text(name)) {
                    (Some(module), Some(name)) => self.global(module, name),
                    _ => Err(self.fault("names a function by something that is no name")),
                }
            }
            b'R' => self.reduce(),
            b'Q' if self.tensors => {
                let id = self.pop()?;
                let storage = torch::storage(self, id)?;
                self.budget.charge(numpy::ARRAY_BYTES)?;
                self.make(Object::Storage(storage))
            }
            b'b' => self.build(),
            other => Err(self.fault(match other {
                b'i' | b'o' | 0x81 | 0x92 => {
                    "it makes an object of a class, which arrays, strings and numbers do not need; \
                     nothing of it was run; save what you need of it as plain arrays"
                        .to_string()
                }
                b'P' | b'Q' | 0x82..=0x84 | 0x97 | 0x98 => {
                    "it refers to something outside the file; save it again by pickle.dump alone"
                        .to_string()
                }
                b'I' | b'L' | b'F' | b'S' | b'V' | b'p' | b'g' => {
                    "it is of protocol 0 or 1; save it again with protocol=4".to_string()
                }
                _ => format!("byte {other:#04x} is no instruction: the pickle is damaged"),
            })),
        }
    }
}
