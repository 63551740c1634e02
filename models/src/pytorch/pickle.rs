//! A pickle machine that makes plain data and nothing else.
//!
//! It knows the opcodes that `torch.save` writes and a short list of names, and stops at the first other one. A
//! name on the list is a constant of this file: nothing is imported and nothing is called. Objects live in one list
//! and point at each other by index, so a pickle that refers to itself or nests deeply costs no recursion, and every
//! object is paid for by bytes of the pickle.

use std::collections::HashMap;

/// The most objects, memo entries and stack entries, each.
const MAX_OBJECTS: usize = 1 << 20;
/// The most axes of a tensor.
const MAX_AXES: usize = 8;

/// Why a pickle was not read. Whatever it asks for, nothing of it was executed.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PickleError {
    /// A class or function that is not on the list.
    #[error(
        "the pickle names {module:?} {name:?}, which is not on the list of what plain checkpoints hold; nothing was executed"
    )]
    Foreign {
        /// Its module.
        module: String,
        /// Its name.
        name: String,
    },
    /// An opcode that `torch.save` has no use for.
    #[error(
        "the pickle has opcode {opcode:#04x} at byte {at}, which is not on the list of those that are read"
    )]
    Opcode {
        /// The opcode.
        opcode: u8,
        /// Where it stands.
        at: usize,
    },
    /// The pickle ends in the middle of something.
    #[error("the pickle ends at byte {at}, before its STOP")]
    Truncated {
        /// Its length.
        at: usize,
    },
    /// A pickle that no pickler writes.
    #[error("the pickle is malformed at byte {at}: expected {expected}")]
    Malformed {
        /// Just past the opcode.
        at: usize,
        /// What the opcode needs.
        expected: &'static str,
    },
    /// A pickle past a bound.
    #[error("the pickle has too many {what}, expected at most {limit}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}

/// Index of an object.
pub type Id = u32;

/// The element type of a storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    F32,
    F16,
    Bf16,
    /// A type that no weight has, by PyTorch's name.
    Other(&'static str),
}

/// A name that the machine knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Global {
    OrderedDict,
    RebuildTensor,
    RebuildParameter,
    Storage(Element),
    /// Something of PyTorch's that a config may mention and a model has no use for.
    Inert,
}

/// What a pickle is made of.
#[derive(Debug)]
pub enum Object {
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Str(String),
    Tuple(Vec<Id>),
    List(Vec<Id>),
    /// In order of insertion; a later entry of the same key counts.
    Dict(Vec<(Id, Id)>),
    Storage(Storage),
    Tensor(TensorRef),
    /// Something that was read over: bytes, sets, integers past 64 bits, a device.
    Opaque,
    /// A name on the list, not yet used.
    Name(Global),
}

/// `data/{key}` in the archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Storage {
    pub element: Element,
    pub key: String,
    /// Elements that the pickle says it has.
    pub elements: usize,
}

/// A view of a storage.
#[derive(Clone, Debug)]
pub struct TensorRef {
    /// The [`Storage`].
    pub storage: Id,
    /// In elements.
    pub offset: usize,
    pub size: Vec<usize>,
    /// In elements, one an axis.
    pub stride: Vec<usize>,
}

/// The objects of a pickle.
#[derive(Debug, Default)]
pub struct Objects(Vec<Object>);

impl Objects {
    pub fn get(&self, id: Id) -> &Object {
        &self.0[id as usize]
    }

    /// The value under a string key; `None` when there is none or `dict` is no dictionary.
    pub fn entry(&self, dict: Id, key: &str) -> Option<Id> {
        let Object::Dict(entries) = self.get(dict) else { return None };
        let is_key = |id: Id| matches!(self.get(id), Object::Str(found) if found == key);
        entries.iter().rev().find(|(found, _)| is_key(*found)).map(|&(_, value)| value)
    }
}

/// Reads a pickle; returns its objects and which of them is the whole.
pub fn read(bytes: &[u8]) -> Result<(Objects, Id), PickleError> {
    let mut machine = Machine { bytes, ..Machine::default() };
    loop {
        let opcode = machine.byte()?;
        if opcode == b'.' {
            let root = machine.pop()?;
            return Ok((machine.objects, root));
        }
        machine.step(opcode)?;
    }
}

#[derive(Default)]
struct Machine<'a> {
    bytes: &'a [u8],
    /// The next byte to read.
    at: usize,
    objects: Objects,
    /// Every entry is an index into `objects`.
    stack: Vec<Id>,
    /// Heights of the stack at each open MARK, ascending and none above the stack's.
    marks: Vec<usize>,
    memo: HashMap<u32, Id>,
}

impl<'a> Machine<'a> {
    fn step(&mut self, opcode: u8) -> Result<(), PickleError> {
        match opcode {
            0x80 => self.take(1).map(drop),
            0x95 => self.take(8).map(drop),
            b'(' => self.mark(),
            b'0' => self.pop().map(drop),
            b'1' => self.pop_mark().map(drop),
            b'N' => self.push(Object::None),
            0x88 => self.push(Object::Bool(true)),
            0x89 => self.push(Object::Bool(false)),
            b'K' | b'M' | b'J' | 0x8a | 0x8b | b'G' => self.number(opcode),
            b'X' | 0x8c | 0x8d => self.text(opcode),
            b'B' | b'C' | 0x8e | 0x96 => self.binary(opcode),
            b')' | b't' | 0x85..=0x87 => self.tuple(opcode),
            b']' | b'l' | b'a' | b'e' => self.list(opcode),
            b'}' | b'd' | b's' | b'u' => self.dict(opcode),
            0x8f => self.push(Object::Opaque),
            0x90 => self.pop_mark().map(drop),
            0x91 => {
                self.pop_mark()?;
                self.push(Object::Opaque)
            }
            b'q' | b'r' | 0x94 => self.put(opcode),
            b'h' | b'j' => self.recall(opcode),
            b'c' | 0x93 => self.global(opcode),
            b'Q' => self.persistent(),
            b'R' => self.reduce(),
            b'b' => self.build(),
            opcode => Err(PickleError::Opcode { opcode, at: self.at - 1 }),
        }
    }

    fn malformed(&self, expected: &'static str) -> PickleError {
        PickleError::Malformed { at: self.at, expected }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], PickleError> {
        let taken = self.at.checked_add(length).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(PickleError::Truncated { at: self.bytes.len() })?;
        self.at += length;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, PickleError> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian unsigned number of up to eight bytes.
    fn unsigned(&mut self, bytes: usize) -> Result<u64, PickleError> {
        Ok(self.take(bytes)?.iter().rev().fold(0, |n, &byte| n << 8 | u64::from(byte)))
    }

    /// Bytes behind their own length of `prefix` bytes.
    fn counted(&mut self, prefix: usize) -> Result<&'a [u8], PickleError> {
        let length = self.unsigned(prefix)?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Result<String, PickleError> {
        let rest = &self.bytes[self.at..];
        let end = rest.iter().position(|&byte| byte == b'\n');
        let end = end.ok_or(PickleError::Truncated { at: self.bytes.len() })?;
        self.at += end + 1;
        Ok(String::from_utf8_lossy(&rest[..end]).into_owned())
    }

    fn push(&mut self, object: Object) -> Result<(), PickleError> {
        if self.objects.0.len() == MAX_OBJECTS {
            return Err(PickleError::Limit { what: "objects", limit: MAX_OBJECTS });
        }
        let id = self.objects.0.len() as Id;
        self.objects.0.push(object);
        self.push_id(id)
    }

    fn push_id(&mut self, id: Id) -> Result<(), PickleError> {
        if self.stack.len() == MAX_OBJECTS {
            return Err(PickleError::Limit { what: "stack entries", limit: MAX_OBJECTS });
        }
        self.stack.push(id);
        Ok(())
    }

    fn mark(&mut self) -> Result<(), PickleError> {
        if self.marks.len() == MAX_OBJECTS {
            return Err(PickleError::Limit { what: "marks", limit: MAX_OBJECTS });
        }
        self.marks.push(self.stack.len());
        Ok(())
    }

    /// The top of the stack, above the last mark.
    fn pop(&mut self) -> Result<Id, PickleError> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err(self.malformed("something on the stack"));
        }
        self.stack.pop().ok_or_else(|| self.malformed("something on the stack"))
    }

    fn top(&mut self) -> Result<Id, PickleError> {
        let top = self.pop()?;
        self.stack.push(top);
        Ok(top)
    }

    /// All above the last mark.
    fn pop_mark(&mut self) -> Result<Vec<Id>, PickleError> {
        let mark = self.marks.pop().ok_or_else(|| self.malformed("a MARK"))?;
        Ok(self.stack.split_off(mark))
    }

    fn number(&mut self, opcode: u8) -> Result<(), PickleError> {
        let object = match opcode {
            b'K' => Object::Int(self.unsigned(1)? as i64),
            b'M' => Object::Int(self.unsigned(2)? as i64),
            b'J' => Object::Int(i64::from(self.unsigned(4)? as u32 as i32)),
            b'G' => {
                let bytes = self.take(8)?.iter().fold(0, |n, &byte| n << 8 | u64::from(byte));
                Object::Float(f64::from_bits(bytes))
            }
            _ => {
                let bytes = self.counted(if opcode == 0x8a { 1 } else { 4 })?;
                let negative = bytes.last().is_some_and(|byte| byte & 0x80 != 0);
                let start = if negative { -1 } else { 0 };
                match bytes.len() {
                    0..=8 => Object::Int(bytes.iter().rev().fold(start, |n, &byte| n << 8 | i64::from(byte))),
                    _ => Object::Opaque,
                }
            }
        };
        self.push(object)
    }

    fn text(&mut self, opcode: u8) -> Result<(), PickleError> {
        let prefix = match opcode {
            0x8c => 1,
            b'X' => 4,
            _ => 8,
        };
        let bytes = self.counted(prefix)?;
        let text = std::str::from_utf8(bytes).map_err(|_| self.malformed("UTF-8"))?;
        self.push(Object::Str(text.to_owned()))
    }

    fn binary(&mut self, opcode: u8) -> Result<(), PickleError> {
        let prefix = match opcode {
            b'C' => 1,
            b'B' => 4,
            _ => 8,
        };
        self.counted(prefix)?;
        self.push(Object::Opaque)
    }

    fn tuple(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = match opcode {
            b')' => Vec::new(),
            b't' => self.pop_mark()?,
            _ => {
                let mut items = Vec::new();
                for _ in 0..=opcode - 0x85 {
                    items.push(self.pop()?);
                }
                items.reverse();
                items
            }
        };
        self.push(Object::Tuple(items))
    }

    fn list(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = match opcode {
            b']' => return self.push(Object::List(Vec::new())),
            b'l' => {
                let items = self.pop_mark()?;
                return self.push(Object::List(items));
            }
            b'a' => vec![self.pop()?],
            _ => self.pop_mark()?,
        };
        let list = self.top()?;
        match &mut self.objects.0[list as usize] {
            Object::List(list) => list.extend(items),
            _ => return Err(self.malformed("a list to append to")),
        }
        Ok(())
    }

    fn dict(&mut self, opcode: u8) -> Result<(), PickleError> {
        let items = match opcode {
            b'}' => return self.push(Object::Dict(Vec::new())),
            b's' => {
                let value = self.pop()?;
                vec![self.pop()?, value]
            }
            _ => self.pop_mark()?,
        };
        let (pairs, []) = items.as_chunks::<2>() else {
            return Err(self.malformed("keys and values in pairs"));
        };
        let pairs = pairs.iter().map(|&[key, value]| (key, value));
        if opcode == b'd' {
            return self.push(Object::Dict(pairs.collect()));
        }
        let dict = self.top()?;
        match &mut self.objects.0[dict as usize] {
            Object::Dict(dict) => dict.extend(pairs),
            _ => return Err(self.malformed("a dictionary to put items in")),
        }
        Ok(())
    }

    fn put(&mut self, opcode: u8) -> Result<(), PickleError> {
        let index = match opcode {
            b'q' => self.unsigned(1)? as u32,
            b'r' => self.unsigned(4)? as u32,
            _ => self.memo.len() as u32,
        };
        if self.memo.len() == MAX_OBJECTS {
            return Err(PickleError::Limit { what: "memo entries", limit: MAX_OBJECTS });
        }
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, opcode: u8) -> Result<(), PickleError> {
        let index = self.unsigned(if opcode == b'h' { 1 } else { 4 })? as u32;
        match self.memo.get(&index) {
            Some(&id) => self.push_id(id),
            None => Err(self.malformed("a memo entry of that index")),
        }
    }

    fn global(&mut self, opcode: u8) -> Result<(), PickleError> {
        let (module, name) = if opcode == b'c' {
            (self.line()?, self.line()?)
        } else {
            let (name, module) = (self.pop()?, self.pop()?);
            match (self.objects.get(module), self.objects.get(name)) {
                (Object::Str(module), Object::Str(name)) => (module.clone(), name.clone()),
                _ => return Err(self.malformed("a module and a name")),
            }
        };
        match known(&module, &name) {
            Some(global) => self.push(Object::Name(global)),
            None => Err(PickleError::Foreign { module: shortened(module), name: shortened(name) }),
        }
    }

    /// `("storage", type, key, device, elements)`.
    fn persistent(&mut self) -> Result<(), PickleError> {
        let id = self.pop()?;
        let storage = self.storage(id).ok_or_else(|| self.malformed("a storage's id"))?;
        self.push(Object::Storage(storage))
    }

    fn storage(&self, id: Id) -> Option<Storage> {
        let Object::Tuple(parts) = self.objects.get(id) else { return None };
        let &[word, kind, key, _device, elements] = parts.as_slice() else { return None };
        let (Object::Str(word), Object::Str(key)) = (self.objects.get(word), self.objects.get(key)) else {
            return None;
        };
        let Object::Name(Global::Storage(element)) = *self.objects.get(kind) else { return None };
        let key_is_plain =
            (1..=20).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (word == "storage" && key_is_plain).then_some(())?;
        Some(Storage { element, key: key.clone(), elements: self.count(elements)? })
    }

    fn count(&self, id: Id) -> Option<usize> {
        match *self.objects.get(id) {
            Object::Int(n) => usize::try_from(n).ok(),
            _ => None,
        }
    }

    fn counts(&self, id: Id) -> Option<Vec<usize>> {
        match self.objects.get(id) {
            Object::Tuple(items) if items.len() <= MAX_AXES => {
                items.iter().map(|&item| self.count(item)).collect()
            }
            _ => None,
        }
    }

    /// The only names that "call" anything: each makes a value of this machine's.
    fn reduce(&mut self) -> Result<(), PickleError> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Object::Name(global) = *self.objects.get(callable) else {
            return Err(self.malformed("a name on the list to REDUCE with"));
        };
        let Object::Tuple(parts) = self.objects.get(arguments) else {
            return Err(self.malformed("a tuple of arguments"));
        };
        match global {
            Global::OrderedDict if parts.is_empty() => self.push(Object::Dict(Vec::new())),
            Global::OrderedDict => Err(self.malformed("an OrderedDict without arguments")),
            Global::RebuildTensor => {
                let tensor = self.tensor(parts).ok_or_else(|| self.malformed("a tensor's arguments"))?;
                self.push(Object::Tensor(tensor))
            }
            Global::RebuildParameter => match parts.first() {
                Some(&tensor) if matches!(self.objects.get(tensor), Object::Tensor(_)) => {
                    self.push_id(tensor)
                }
                _ => Err(self.malformed("a tensor in a Parameter")),
            },
            Global::Inert => self.push(Object::Opaque),
            Global::Storage(_) => Err(self.malformed("a storage by its id alone")),
        }
    }

    /// `(storage, offset, size, stride, requires_grad, hooks, …)`.
    fn tensor(&self, parts: &[Id]) -> Option<TensorRef> {
        let &[storage, offset, size, stride, ..] = parts else { return None };
        matches!(self.objects.get(storage), Object::Storage(_)).then_some(())?;
        let (size, stride) = (self.counts(size)?, self.counts(stride)?);
        (size.len() == stride.len()).then_some(())?;
        Some(TensorRef { storage, offset: self.count(offset)?, size, stride })
    }

    /// The attributes of an `OrderedDict`, `_metadata`, are read over.
    fn build(&mut self) -> Result<(), PickleError> {
        self.pop()?;
        let object = self.top()?;
        match self.objects.get(object) {
            Object::Dict(_) => Ok(()),
            _ => Err(self.malformed("a dictionary to BUILD")),
        }
    }
}

/// The list.
fn known(module: &str, name: &str) -> Option<Global> {
    let storage = |element| Some(Global::Storage(element));
    match (module, name) {
        ("collections", "OrderedDict") => Some(Global::OrderedDict),
        ("torch._utils", "_rebuild_tensor_v2") => Some(Global::RebuildTensor),
        ("torch._utils", "_rebuild_parameter") => Some(Global::RebuildParameter),
        ("torch", "FloatStorage") => storage(Element::F32),
        ("torch", "HalfStorage") => storage(Element::F16),
        ("torch", "BFloat16Storage") => storage(Element::Bf16),
        ("torch", "DoubleStorage") => storage(Element::Other("F64")),
        ("torch", "LongStorage") => storage(Element::Other("I64")),
        ("torch", "IntStorage") => storage(Element::Other("I32")),
        ("torch", "ShortStorage") => storage(Element::Other("I16")),
        ("torch", "CharStorage") => storage(Element::Other("I8")),
        ("torch", "ByteStorage") => storage(Element::Other("U8")),
        ("torch", "BoolStorage") => storage(Element::Other("BOOL")),
        ("torch", "device" | "Size" | "float32" | "float16" | "bfloat16" | "float64" | "int64") => {
            Some(Global::Inert)
        }
        _ => None,
    }
}

/// At most 80 characters of a name from the file.
fn shortened(name: String) -> String {
    name.chars().take(80).collect()
}
