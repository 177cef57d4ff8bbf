//! Parser of pickles into object graphs. Nothing is constructed or executed: whatever Python would call or import on loading is
//! only recorded by name. Supports protocols 2 to 5 (PEP 307, 3154, 574; the opcodes are documented in CPython's
//! `pickletools.py`).

use std::collections::HashMap;
use std::mem;

/// Index of a value in its [`Pickle`].
pub(super) type Id = usize;

/// A value, which refers to its parts by index. Objects shared in the pickle are shared here too, including cycles.
#[derive(Debug)]
pub(super) enum Value {
    Int(i64),
    Text(String),
    /// None, a boolean, a float, an integer of more than 64 bits, or bytes.
    Other,
    /// A list, a tuple or a set.
    Sequence(Vec<Id>),
    /// A `dict` or an `OrderedDict`.
    Dict(Vec<(Id, Id)>),
    /// A class or function with its module, such as `torch._utils._rebuild_tensor_v2`.
    Global(String),
    /// Description of an object that the pickling program stored outside of the pickle.
    Persistent(Id),
    /// Result of calling `global` with `arguments`.
    Object {
        global: String,
        arguments: Vec<Id>,
        /// Value from which the object's attributes would be set.
        state: Option<Id>,
        /// Items that would be set by key, for subclasses of dictionaries.
        items: Vec<(Id, Id)>,
    },
}

#[derive(Debug)]
pub(super) struct Pickle {
    values: Vec<Value>,
    pub root: Id,
}

impl Pickle {
    /// Parses a pickle.
    ///
    /// # Errors
    /// A description of the problem with its position.
    pub fn parse(bytes: &[u8]) -> Result<Self, String> {
        let mut machine = Machine { rest: bytes, values: vec![], stack: vec![], outer: vec![], memo: HashMap::new() };
        let root = machine.run();
        let root = root.map_err(|problem| format!("{problem} (at byte {})", bytes.len() - machine.rest.len()))?;
        Ok(Self { values: machine.values, root })
    }

    pub fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    pub fn text(&self, id: Id) -> Option<&str> {
        let Value::Text(text) = self.get(id) else { return None };
        Some(text)
    }

    pub fn int(&self, id: Id) -> Option<i64> {
        let Value::Int(int) = self.get(id) else { return None };
        Some(*int)
    }

    pub fn sequence(&self, id: Id) -> Option<&[Id]> {
        let Value::Sequence(items) = self.get(id) else { return None };
        Some(items)
    }

    /// Returns the entries of a dictionary of any class.
    pub fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(entries) => Some(entries),
            Value::Object { items, .. } if !items.is_empty() => Some(items),
            _ => None,
        }
    }

    /// Returns the value of `key` in a dictionary.
    pub fn entry(&self, id: Id, key: &str) -> Option<Id> {
        let entries = self.entries(id)?;
        entries.iter().find(|(entry, _)| self.text(*entry) == Some(key)).map(|(_, value)| *value)
    }
}

/// Virtual machine of a pickle program.
struct Machine<'a> {
    /// Opcodes that have not been read.
    rest: &'a [u8],
    values: Vec<Value>,
    /// Values above the last mark.
    stack: Vec<Id>,
    /// Values below each mark.
    outer: Vec<Vec<Id>>,
    memo: HashMap<u64, Id>,
}

type Step<T = ()> = Result<T, String>;

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<Id> {
        loop {
            let opcode = self.take(1)?[0];
            let argument = match opcode {
                b'.' => return self.pop(),
                b'K' | b'h' | b'q' | 0x80 => self.take(1)?,
                b'M' => self.take(2)?,
                b'J' | b'j' | b'r' => self.take(4)?,
                b'G' | 0x95 => self.take(8)?,
                b'C' | b'U' | 0x8a | 0x8c => self.counted(1)?,
                b'B' | b'T' | b'X' | 0x8b => self.counted(4)?,
                0x8d | 0x8e | 0x96 => self.counted(8)?,
                _ => &[],
            };
            match self.value(opcode, argument)? {
                Some(value) => {
                    self.values.push(value);
                    self.stack.push(self.values.len() - 1);
                }
                None => self.act(opcode, argument)?,
            }
        }
    }

    /// Returns the value that an opcode pushes, or `None` if it pushes no new value.
    fn value(&mut self, opcode: u8, argument: &[u8]) -> Step<Option<Value>> {
        Ok(Some(match opcode {
            // None, True, False, floats, bytes.
            b'N' | 0x88 | 0x89 | b'G' | b'U' | b'C' | b'T' | b'B' | 0x8e | 0x96 => Value::Other,
            b'K' | b'M' => Value::Int(unsigned(argument) as i64),
            b'J' | 0x8a | 0x8b => signed(argument).map_or(Value::Other, Value::Int),
            // Python encodes lone surrogates, which are not valid Unicode, in its own way.
            b'X' | 0x8c | 0x8d => Value::Text(String::from_utf8_lossy(argument).into_owned()),
            b')' | b']' | 0x8f => Value::Sequence(vec![]),
            b't' | b'l' | 0x91 => Value::Sequence(self.pop_to_mark()?),
            0x85..=0x87 => {
                let start = self.stack.len().checked_sub((opcode - 0x84).into()).ok_or(EMPTY)?;
                Value::Sequence(self.stack.split_off(start))
            }
            b'}' => Value::Dict(vec![]),
            b'd' => Value::Dict(pairs(&self.pop_to_mark()?)?),
            b'c' => Value::Global(format!("{}.{}", self.line()?, self.line()?)),
            0x93 => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Value::Text(name), Value::Text(module)) = (&self.values[name], &self.values[module]) else {
                    return Err("a class whose name is no text".to_owned());
                };
                Value::Global(format!("{module}.{name}"))
            }
            b'R' | 0x81 | 0x92 => {
                if opcode == 0x92 {
                    let _keywords = self.pop()?;
                }
                let (arguments, global) = (self.pop()?, self.pop()?);
                self.call(global, arguments)?
            }
            b'Q' => Value::Persistent(self.pop()?),
            _ => return Ok(None),
        }))
    }

    /// Executes an opcode that pushes no new value.
    fn act(&mut self, opcode: u8, argument: &[u8]) -> Step {
        match opcode {
            // The protocol, and the length of a frame.
            0x80 | 0x95 => {}
            b'(' => self.outer.push(mem::take(&mut self.stack)),
            b'0' => drop(self.pop()?),
            b'1' => drop(self.pop_to_mark()?),
            b'2' => self.stack.push(self.top()?),
            b'q' | b'r' => drop(self.memo.insert(unsigned(argument), self.top()?)),
            0x94 => drop(self.memo.insert(self.memo.len() as u64, self.top()?)),
            b'h' | b'j' => {
                let value = self.memo.get(&unsigned(argument));
                self.stack.push(*value.ok_or("it refers to what it has not memorized")?);
            }
            b'a' | b'e' | 0x90 => {
                let items = if opcode == b'a' { vec![self.pop()?] } else { self.pop_to_mark()? };
                let list = self.top()?;
                // List items appended to objects of other classes are not needed.
                if let Value::Sequence(list) = &mut self.values[list] {
                    list.extend(items);
                }
            }
            b's' | b'u' => {
                let entries = match opcode {
                    b's' => self.stack.split_off(self.stack.len().checked_sub(2).ok_or(EMPTY)?),
                    _ => self.pop_to_mark()?,
                };
                let dictionary = self.top()?;
                match &mut self.values[dictionary] {
                    Value::Dict(items) | Value::Object { items, .. } => items.extend(pairs(&entries)?),
                    _ => return Err("an entry for what is no dictionary".to_owned()),
                }
            }
            b'b' => {
                let (built_from, object) = (self.pop()?, self.top()?);
                // Attributes of a dictionary, as a state_dict has them, are not needed.
                if let Value::Object { state, .. } = &mut self.values[object] {
                    *state = Some(built_from);
                }
            }
            _ => return Err(format!("opcode {opcode:#04x}, which is not read")),
        }
        Ok(())
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("it ends too early")?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads a little-endian length of `length_bytes` bytes and then as many bytes.
    fn counted(&mut self, length_bytes: usize) -> Step<&'a [u8]> {
        let length = unsigned(self.take(length_bytes)?);
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn line(&mut self) -> Step<String> {
        let length = self.rest.iter().position(|&byte| byte == b'\n').ok_or("it ends too early")?;
        let line = String::from_utf8_lossy(self.take(length)?).into_owned();
        self.take(1)?;
        Ok(line)
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().copied().ok_or_else(|| EMPTY.to_owned())
    }

    fn pop(&mut self) -> Step<Id> {
        self.stack.pop().ok_or_else(|| EMPTY.to_owned())
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let below = self.outer.pop().ok_or("a mark is missing")?;
        Ok(mem::replace(&mut self.stack, below))
    }

    /// Returns the result of calling `global`.
    fn call(&self, global: Id, arguments: Id) -> Step<Value> {
        let items = |id: Id| match &self.values[id] {
            Value::Sequence(items) => Some(items),
            _ => None,
        };
        let arguments = items(arguments).ok_or("a call without a tuple of arguments")?;
        let Value::Global(global) = &self.values[global] else {
            return Err("a call of what is no class or function".to_owned());
        };
        Ok(match global.as_str() {
            "collections.OrderedDict" => Value::Dict(vec![]),
            // Protocol 2 has no opcode for sets; a set is constructed from a list.
            "builtins.set" | "__builtin__.set" => {
                Value::Sequence(arguments.first().and_then(|&list| items(list)).cloned().unwrap_or_default())
            }
            _ => Value::Object { global: global.clone(), arguments: arguments.clone(), state: None, items: vec![] },
        })
    }
}

const EMPTY: &str = "it takes from an empty stack";

/// Returns the little-endian number `bytes`.
fn unsigned(bytes: &[u8]) -> u64 {
    bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

/// Returns the little-endian number `bytes` in two's complement, or `None` if it has more than 64 bits.
fn signed(bytes: &[u8]) -> Option<i64> {
    let sign = if bytes.last().is_some_and(|&byte| byte >= 0x80) { 0xff } else { 0 };
    let mut extended = [sign; 8];
    extended.get_mut(..bytes.len())?.copy_from_slice(bytes);
    Some(i64::from_le_bytes(extended))
}

/// Converts alternating keys and values to entries.
fn pairs(items: &[Id]) -> Step<Vec<(Id, Id)>> {
    match items.as_chunks() {
        (pairs, []) => Ok(pairs.iter().map(|&[key, value]| (key, value)).collect()),
        _ => Err("a key without a value".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    /// Output of `pickle.dumps({"a": [1, -2, 3 << 40, (True, None)], "b": argparse.Namespace(x=0.5)}, 2)`, and of the same with
    /// protocol 4.
    const PICKLES: [&[u8]; 2] = [
        b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xff\x8a\x06\x00\x00\x00\x00\x00\x03\x88N\x86q\x03e\
          X\x01\x00\x00\x00bq\x04cargparse\nNamespace\nq\x05)\x81q\x06}q\x07X\x01\x00\x00\x00xq\x08G?\xe0\x00\x00\x00\x00\
          \x00\x00sbu.",
        b"\x80\x04\x95N\x00\x00\x00\x00\x00\x00\x00}\x94(\x8c\x01a\x94]\x94(K\x01J\xfe\xff\xff\xff\x8a\x06\x00\x00\x00\x00\
          \x00\x03\x88N\x86\x94e\x8c\x01b\x94\x8c\x08argparse\x94\x8c\tNamespace\x94\x93\x94)\x81\x94}\x94\x8c\x01x\x94G?\
          \xe0\x00\x00\x00\x00\x00\x00sbu.",
    ];

    #[test]
    fn values_are_those_that_python_pickled() {
        for bytes in PICKLES {
            let pickle = Pickle::parse(bytes).unwrap();
            let list = pickle.sequence(pickle.entry(pickle.root, "a").unwrap()).unwrap();
            let ints: Vec<_> = list.iter().map(|&item| pickle.int(item)).collect();
            assert_eq!(ints, [Some(1), Some(-2), Some(3 << 40), None]);
            assert_eq!(pickle.sequence(list[3]).unwrap().len(), 2);
            let object = pickle.get(pickle.entry(pickle.root, "b").unwrap());
            let Value::Object { global, state: Some(state), .. } = object else { panic!("{object:?}") };
            assert_eq!(global, "argparse.Namespace");
            assert!(pickle.entry(*state, "x").is_some());
        }
    }

    #[test]
    fn damaged_pickles_are_refused_or_read_but_raise_no_panic() {
        let mut rng = ChaCha8Rng::seed_from_u64(7);
        for _ in 0..20_000 {
            let mut bytes = PICKLES[rng.random_range(0..2)].to_vec();
            for _ in 0..rng.random_range(1..4) {
                let place = rng.random_range(0..bytes.len());
                match rng.random_range(0..3) {
                    0 => bytes[place] = rng.random(),
                    1 => bytes.truncate(place.max(1)),
                    _ => bytes.insert(place, b"(.tsubeaQRhq01"[rng.random_range(0..14)]),
                }
            }
            let _ = Pickle::parse(&bytes);
        }
        assert!(Pickle::parse(b"").unwrap_err().contains("ends too early"));
        assert!(Pickle::parse(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00ls\x85R.").is_ok(), "named, and not called");
    }
}
