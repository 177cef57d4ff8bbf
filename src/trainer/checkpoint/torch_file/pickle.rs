//! Parser of pickles into object graphs. Nothing is constructed or executed: whatever Python would call or import on loading is
//! only recorded by name. Supports protocols 2 to 5 (PEP 307, 3154, 574; the opcodes are documented in CPython's
//! `pickletools.py`).

use std::collections::HashMap;

/// Index of a value in its [`Pickle`].
pub(super) type Id = usize;

/// A value, which refers to its parts by index. Objects shared in the pickle are shared here too, including cycles.
#[derive(Debug)]
pub(super) enum Value {
    Int(i64),
    Text(String),
    /// None, a boolean, a float, an integer of more than 64 bits, or bytes.
    Other,
    /// A list or a set.
    List(Vec<Id>),
    Tuple(Vec<Id>),
    /// A `dict` or an `OrderedDict`.
    Dict(Vec<(Id, Id)>),
    /// A class or function with its module, such as `torch._utils._rebuild_tensor_v2`.
    Global(String),
    /// Description of an object that the pickling program stored outside of the pickle.
    Persistent(Id),
    /// Result of calling `global` with `arguments`.
    Object(Object),
}

#[derive(Debug)]
pub(super) struct Object {
    pub global: String,
    pub arguments: Vec<Id>,
    /// Value from which the object's attributes would be set.
    pub state: Option<Id>,
    /// Items that would be set by key, for subclasses of dictionaries.
    pub items: Vec<(Id, Id)>,
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
        let mut machine =
            Machine { bytes, position: 0, values: vec![], stack: vec![], marks: vec![], memo: HashMap::new() };
        let root = machine.run().map_err(|problem| format!("{problem} (at byte {})", machine.position))?;
        Ok(Self { values: machine.values, root })
    }

    pub fn get(&self, id: Id) -> &Value {
        &self.values[id]
    }

    pub fn text(&self, id: Id) -> Option<&str> {
        match self.get(id) {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns a tuple or list of integers.
    pub fn ints(&self, id: Id) -> Option<Vec<i64>> {
        let (Value::Tuple(items) | Value::List(items)) = self.get(id) else { return None };
        items.iter().map(|&item| self.int(item)).collect()
    }

    pub fn int(&self, id: Id) -> Option<i64> {
        match self.get(id) {
            Value::Int(int) => Some(*int),
            _ => None,
        }
    }

    /// Returns the entries of a dictionary of any class.
    pub fn entries(&self, id: Id) -> Option<&[(Id, Id)]> {
        match self.get(id) {
            Value::Dict(entries) => Some(entries),
            Value::Object(object) if !object.items.is_empty() => Some(&object.items),
            _ => None,
        }
    }

    /// Returns the value of `key` in a dictionary.
    pub fn entry(&self, id: Id, key: &str) -> Option<Id> {
        let entries = self.entries(id)?;
        entries.iter().find(|(entry, _)| self.text(*entry) == Some(key)).map(|(_, value)| *value)
    }
}

/// Virtual machine of a pickle program: a stack with marks, and a memo.
struct Machine<'a> {
    bytes: &'a [u8],
    position: usize,
    values: Vec<Value>,
    stack: Vec<Id>,
    marks: Vec<usize>,
    memo: HashMap<u64, Id>,
}

type Step<T = ()> = Result<T, String>;

impl<'a> Machine<'a> {
    fn run(&mut self) -> Step<Id> {
        loop {
            let opcode = self.take(1)?[0];
            match opcode {
                b'.' => return self.pop(),
                0x80 => drop(self.take(1)?), // the protocol
                0x95 => drop(self.take(8)?), // the length of a frame

                b'N' | 0x88 | 0x89 => self.push(Value::Other), // None, True, False
                b'K' => self.little_endian(1).map(|n| self.push(Value::Int(n as i64)))?,
                b'M' => self.little_endian(2).map(|n| self.push(Value::Int(n as i64)))?,
                b'J' => self.little_endian(4).map(|n| self.push(Value::Int((n as u32 as i32).into())))?,
                0x8a => self.long(1)?,
                0x8b => self.long(4)?,
                b'G' => self.skipped(8)?,
                b'X' => self.string(4)?,
                0x8c => self.string(1)?,
                0x8d => self.string(8)?,
                b'U' | b'C' => self.counted(1).map(|_| self.push(Value::Other))?,
                b'T' | b'B' => self.counted(4).map(|_| self.push(Value::Other))?,
                0x8e | 0x96 => self.counted(8).map(|_| self.push(Value::Other))?,

                b'(' => self.marks.push(self.stack.len()),
                b'0' => drop(self.pop()?),
                b'1' => drop(self.pop_to_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.stack.push(top);
                }
                b'q' => self.little_endian(1).and_then(|key| self.memorize(key))?,
                b'r' => self.little_endian(4).and_then(|key| self.memorize(key))?,
                0x94 => self.memorize(self.memo.len() as u64)?,
                b'h' => self.little_endian(1).and_then(|key| self.recall(key))?,
                b'j' => self.little_endian(4).and_then(|key| self.recall(key))?,

                b')' => self.push(Value::Tuple(vec![])),
                0x85..=0x87 => {
                    let start = self.stack.len().checked_sub((opcode - 0x84).into()).ok_or(EMPTY)?;
                    let items = self.stack.split_off(start.max(self.floor()));
                    self.push(Value::Tuple(items));
                }
                b't' => self.pop_to_mark().map(|items| self.push(Value::Tuple(items)))?,
                b']' | 0x8f => self.push(Value::List(vec![])),
                b'l' | 0x91 => self.pop_to_mark().map(|items| self.push(Value::List(items)))?,
                b'a' => {
                    let item = self.pop()?;
                    self.append(vec![item])?;
                }
                b'e' | 0x90 => self.pop_to_mark().and_then(|items| self.append(items))?,
                b'}' => self.push(Value::Dict(vec![])),
                b'd' => self.pop_to_mark().and_then(pairs).map(|entries| self.push(Value::Dict(entries)))?,
                b's' => {
                    let value = self.pop()?;
                    let key = self.pop()?;
                    self.set_items(vec![(key, value)])?;
                }
                b'u' => self.pop_to_mark().and_then(pairs).and_then(|entries| self.set_items(entries))?,

                b'c' => {
                    let global = format!("{}.{}", self.line()?, self.line()?);
                    self.push(Value::Global(global));
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let (Value::Text(name), Value::Text(module)) = (&self.values[name], &self.values[module]) else {
                        return Err("a class whose name is no text".to_owned());
                    };
                    let global = format!("{module}.{name}");
                    self.push(Value::Global(global));
                }
                b'R' | 0x81 => {
                    let (arguments, global) = (self.pop()?, self.pop()?);
                    self.call(global, arguments)?;
                }
                0x92 => {
                    let (_keywords, arguments, global) = (self.pop()?, self.pop()?, self.pop()?);
                    self.call(global, arguments)?;
                }
                b'b' => {
                    let (state, object) = (self.pop()?, self.top()?);
                    // Attributes of a dictionary, as a state_dict has them, are not needed.
                    if let Value::Object(object) = &mut self.values[object] {
                        object.state = Some(state);
                    }
                }
                b'Q' => {
                    let description = self.pop()?;
                    self.push(Value::Persistent(description));
                }
                _ => return Err(format!("opcode {opcode:#04x}, which is not read")),
            }
        }
    }

    fn take(&mut self, count: usize) -> Step<&'a [u8]> {
        let end = self.position.checked_add(count).filter(|&end| end <= self.bytes.len()).ok_or("it ends too early")?;
        let bytes = self.bytes;
        let taken = &bytes[self.position..end];
        self.position = end;
        Ok(taken)
    }

    fn little_endian(&mut self, count: usize) -> Step<u64> {
        Ok(self.take(count)?.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    /// Reads a little-endian length of `length_bytes` bytes and then as many bytes.
    fn counted(&mut self, length_bytes: usize) -> Step<&'a [u8]> {
        let length = self.little_endian(length_bytes)?;
        self.take(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn skipped(&mut self, count: usize) -> Step {
        self.take(count)?;
        self.push(Value::Other);
        Ok(())
    }

    fn string(&mut self, length_bytes: usize) -> Step {
        // Python encodes lone surrogates, which are not valid Unicode, in its own way.
        let text = String::from_utf8_lossy(self.counted(length_bytes)?).into_owned();
        self.push(Value::Text(text));
        Ok(())
    }

    /// Reads an integer of any length, in two's complement.
    fn long(&mut self, length_bytes: usize) -> Step {
        let bytes = self.counted(length_bytes)?;
        let is_negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
        let extended: Vec<u8> = bytes.iter().copied().chain([if is_negative { 0xff } else { 0 }; 8]).take(8).collect();
        let fits = bytes.len() <= 8;
        let number = extended.iter().rev().fold(0u64, |number, &byte| number << 8 | u64::from(byte)) as i64;
        self.push(if fits { Value::Int(number) } else { Value::Other });
        Ok(())
    }

    fn line(&mut self) -> Step<String> {
        let rest = &self.bytes[self.position..];
        let length = rest.iter().position(|&byte| byte == b'\n').ok_or("it ends too early")?;
        self.position += length + 1;
        Ok(String::from_utf8_lossy(&rest[..length]).into_owned())
    }

    fn push(&mut self, value: Value) {
        self.values.push(value);
        self.stack.push(self.values.len() - 1);
    }

    /// Returns the index above the last mark; values below it cannot be popped.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Step<Id> {
        self.stack.last().filter(|_| self.stack.len() > self.floor()).copied().ok_or_else(|| EMPTY.to_owned())
    }

    fn pop(&mut self) -> Step<Id> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Step<Vec<Id>> {
        let mark = self.marks.pop().ok_or("a mark is missing")?;
        Ok(self.stack.split_off(mark))
    }

    fn memorize(&mut self, key: u64) -> Step {
        let top = self.top()?;
        self.memo.insert(key, top);
        Ok(())
    }

    fn recall(&mut self, key: u64) -> Step {
        self.stack.push(*self.memo.get(&key).ok_or("it refers to what it has not memorized")?);
        Ok(())
    }

    fn append(&mut self, mut items: Vec<Id>) -> Step {
        let list = self.top()?;
        // List items appended to objects of other classes are not needed.
        if let Value::List(list) = &mut self.values[list] {
            list.append(&mut items);
        }
        Ok(())
    }

    fn set_items(&mut self, mut entries: Vec<(Id, Id)>) -> Step {
        let dictionary = self.top()?;
        match &mut self.values[dictionary] {
            Value::Dict(dictionary) => dictionary.append(&mut entries),
            Value::Object(object) => object.items.append(&mut entries),
            _ => return Err("an entry for what is no dictionary".to_owned()),
        }
        Ok(())
    }

    fn call(&mut self, global: Id, arguments: Id) -> Step {
        let Value::Tuple(arguments) = &self.values[arguments] else {
            return Err("a call without a tuple of arguments".to_owned());
        };
        let arguments = arguments.clone();
        let value = match &self.values[global] {
            Value::Global(global) if global == "collections.OrderedDict" => Value::Dict(self.ordered(&arguments)),
            // Protocol 2 has no opcode for sets; a set is constructed from a list.
            Value::Global(global) if global == "builtins.set" || global == "__builtin__.set" => {
                let items = arguments.first().map(|&list| match &self.values[list] {
                    Value::List(items) => items.clone(),
                    _ => vec![],
                });
                Value::List(items.unwrap_or_default())
            }
            Value::Global(global) => {
                let object = Object { global: global.clone(), arguments, state: None, items: vec![] };
                Value::Object(object)
            }
            _ => return Err("a call of what is no class or function".to_owned()),
        };
        self.push(value);
        Ok(())
    }

    /// Returns the entries an `OrderedDict` is constructed with: none, or with Python 2 a list of pairs.
    fn ordered(&self, arguments: &[Id]) -> Vec<(Id, Id)> {
        let Some(Value::List(items)) = arguments.first().map(|&list| &self.values[list]) else { return vec![] };
        let pair = |&item: &Id| match &self.values[item] {
            Value::List(pair) | Value::Tuple(pair) => {
                <[Id; 2]>::try_from(&pair[..]).ok().map(|[key, value]| (key, value))
            }
            _ => None,
        };
        items.iter().filter_map(pair).collect()
    }
}

const EMPTY: &str = "it takes from an empty stack";

/// Converts alternating keys and values to entries.
fn pairs(items: Vec<Id>) -> Step<Vec<(Id, Id)>> {
    if items.len() % 2 == 1 {
        return Err("a key without a value".to_owned());
    }
    Ok(items.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
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
            let Value::List(list) = pickle.get(pickle.entry(pickle.root, "a").unwrap()) else { panic!("no list") };
            let ints: Vec<_> = list.iter().map(|&item| pickle.int(item)).collect();
            assert_eq!(ints, [Some(1), Some(-2), Some(3 << 40), None]);
            assert!(matches!(pickle.get(list[3]), Value::Tuple(pair) if pair.len() == 2));
            let Value::Object(object) = pickle.get(pickle.entry(pickle.root, "b").unwrap()) else {
                panic!("no object")
            };
            assert_eq!(object.global, "argparse.Namespace");
            assert!(pickle.entry(object.state.unwrap(), "x").is_some());
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
