//! What drivers are known to make mistakes of, looked for in every text. A find is mended, or it is
//! in the list of what we live with and why.

use naga::valid::{FunctionInfo, ModuleInfo};
use naga::{
    AddressSpace, BinaryOperator, Block, Expression, Function, Handle, Literal, MathFunction,
    Module, ScalarKind, Statement, TypeInner,
};
use std::collections::HashSet;

/// Direct3D's older compiler, FXC, refuses a write to a component that is not known when it
/// compiles (wgpu#8334).
pub const COMPONENT: &str = "a write to a component of a vector by a computed index";
/// FXC refuses a barrier where it takes the way there to differ between invocations: error X3663,
/// and X4026 for what was read from memory that a kernel also writes.
pub const BARRIER: &str = "a barrier that is reached depending on loaded data";
/// Metal has no atomic floats before version 3, Direct3D none at all.
pub const ATOMIC: &str = "an atomic";
/// Metal computes with its fast mathematics, in which these do not exist; MSL and HLSL write them
/// in words of their own.
pub const NOT_FINITE: &str = "an infinity or a NaN";
/// Metal's tanh overflows to NaN, and an exponential to an infinity.
pub const UNBOUNDED: &str = "an exponential of an argument without a bound, or a tanh";
/// Mesa and NVIDIA's driver make a minimum or maximum of it, which drops a NaN; shared/numbers.wgsl has
/// bounds that keep one.
pub const CHOICE: &str = "a choice between the two numbers that its condition compares";
/// naga hands workgroup memory to the entry point and to functions by reference, and Metal has been
/// seen to move a load across a barrier there (wgpu#4500).
pub const BY_REFERENCE: &str = "a function with a barrier that is given workgroup memory";

/// What is in a module of these, each once.
pub fn hazards(module: &Module, info: &ModuleInfo, msl: &str, hlsl: &str) -> Vec<&'static str> {
    let mut found = Vec::new();
    let entry = &module.entry_points[0].function;
    let functions = module.functions.iter().map(|(h, f)| (f, &info[h], true));
    for (function, of, helper) in functions.chain([(entry, info.get_entry_point(0), false)]) {
        let walk = Walk::new(module, function, of);
        walk.block(&function.body, false, &mut found);
        for (_, expression) in function.expressions.iter() {
            walk.expression(expression, &mut found);
        }
        let shared = |g: &(Handle<naga::GlobalVariable>, &naga::GlobalVariable)| {
            g.1.space == AddressSpace::WorkGroup && !of[g.0].is_empty()
        };
        if helper
            && has_barrier(module, &function.body)
            && module.global_variables.iter().any(|g| shared(&g))
        {
            found.push(BY_REFERENCE);
        }
    }
    for word in ["INFINITY", "NAN", "1.#INF"] {
        if msl.contains(word) || hlsl.contains(word) {
            found.push(NOT_FINITE);
        }
    }
    if msl.contains("atomic_") || hlsl.contains("Interlocked") {
        found.push(ATOMIC);
    }
    found.sort_unstable();
    found.dedup();
    found
}

/// What an expression is made of.
fn operands(expression: &Expression) -> Vec<Handle<Expression>> {
    match expression {
        Expression::Compose { components, .. } => components.clone(),
        Expression::Access { base, index } => vec![*base, *index],
        Expression::AccessIndex { base, .. } => vec![*base],
        Expression::Splat { value, .. } => vec![*value],
        Expression::Swizzle { vector, .. } => vec![*vector],
        Expression::Load { pointer } => vec![*pointer],
        Expression::Unary { expr, .. } | Expression::As { expr, .. } => vec![*expr],
        Expression::Binary { left, right, .. } => vec![*left, *right],
        Expression::Select { condition, accept, reject } => vec![*condition, *accept, *reject],
        Expression::Relational { argument, .. } => vec![*argument],
        Expression::Math { arg, arg1, arg2, arg3, .. } => {
            [Some(*arg), *arg1, *arg2, *arg3].into_iter().flatten().collect()
        }
        _ => Vec::new(),
    }
}

/// The blocks inside a statement.
fn inner(statement: &Statement) -> Vec<&Block> {
    match statement {
        Statement::Block(block) => vec![block],
        Statement::If { accept, reject, .. } => vec![accept, reject],
        Statement::Switch { cases, .. } => cases.iter().map(|c| &c.body).collect(),
        Statement::Loop { body, continuing, .. } => vec![body, continuing],
        _ => Vec::new(),
    }
}

fn has_barrier(module: &Module, block: &Block) -> bool {
    block.iter().any(|statement| match statement {
        Statement::ControlBarrier(_) | Statement::WorkGroupUniformLoad { .. } => true,
        Statement::Call { function, .. } => has_barrier(module, &module.functions[*function].body),
        other => inner(other).into_iter().any(|b| has_barrier(module, b)),
    })
}

/// Whether a block leaves the loop that it is in, or the function.
fn leaves(block: &Block) -> bool {
    block.iter().any(|statement| match statement {
        Statement::Break | Statement::Continue | Statement::Return { .. } => true,
        // Its breaks are its own.
        Statement::Loop { body, continuing, .. } => returns(body) || returns(continuing),
        other => inner(other).into_iter().any(leaves),
    })
}

fn returns(block: &Block) -> bool {
    block.iter().any(|statement| match statement {
        Statement::Return { .. } => true,
        other => inner(other).into_iter().any(returns),
    })
}

/// Whether a function reads a buffer or workgroup memory.
fn reads(module: &Module, function: &Function) -> bool {
    function.expressions.iter().any(|(_, e)| match e {
        Expression::Load { pointer } => {
            matches!(root(function, *pointer), Expression::GlobalVariable(g)
                if is_memory(module.global_variables[*g].space))
        }
        Expression::CallResult(callee) => reads(module, &module.functions[*callee]),
        _ => false,
    })
}

fn is_memory(space: AddressSpace) -> bool {
    matches!(space, AddressSpace::Storage { .. } | AddressSpace::WorkGroup)
}

/// The variable that a pointer points into.
fn root(function: &Function, pointer: Handle<Expression>) -> &Expression {
    match &function.expressions[pointer] {
        Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => {
            root(function, *base)
        }
        other => other,
    }
}

struct Walk<'a> {
    module: &'a Module,
    function: &'a Function,
    info: &'a FunctionInfo,
    /// Local variables whose value depends on loaded data.
    locals: HashSet<Handle<naga::LocalVariable>>,
}

impl<'a> Walk<'a> {
    fn new(module: &'a Module, function: &'a Function, info: &'a FunctionInfo) -> Self {
        let mut walk = Walk { module, function, info, locals: HashSet::new() };
        loop {
            let known = walk.locals.len();
            walk.stores(&function.body);
            if walk.locals.len() == known {
                return walk;
            }
        }
    }

    fn stores(&mut self, block: &Block) {
        for statement in block.iter() {
            if let Statement::Store { pointer, value } = statement
                && let Expression::LocalVariable(local) = root(self.function, *pointer)
                && self.is_loaded(*value)
            {
                self.locals.insert(*local);
            }
            for block in inner(statement) {
                self.stores(block);
            }
        }
    }

    /// Whether a value depends on what was read from a buffer or from workgroup memory.
    fn is_loaded(&self, value: Handle<Expression>) -> bool {
        let expression = &self.function.expressions[value];
        let itself = match expression {
            Expression::Load { pointer } => match root(self.function, *pointer) {
                Expression::GlobalVariable(g) => is_memory(self.module.global_variables[*g].space),
                Expression::LocalVariable(local) => self.locals.contains(local),
                _ => false,
            },
            Expression::WorkGroupUniformLoadResult { .. } => true,
            Expression::CallResult(callee) => reads(self.module, &self.module.functions[*callee]),
            _ => false,
        };
        itself || operands(expression).into_iter().any(|o| self.is_loaded(o))
    }

    /// Whether how a loop ends depends on loaded data.
    fn ends_by_data(&self, block: &Block) -> bool {
        block.iter().any(|statement| match statement {
            Statement::If { condition, accept, reject } => {
                (self.is_loaded(*condition) && (leaves(accept) || leaves(reject)))
                    || self.ends_by_data(accept)
                    || self.ends_by_data(reject)
            }
            Statement::Loop { .. } => false,
            other => inner(other).into_iter().any(|b| self.ends_by_data(b)),
        })
    }

    /// `by_data` says that whether this block is reached depends on loaded data.
    fn block(&self, block: &Block, mut by_data: bool, found: &mut Vec<&'static str>) {
        for statement in block.iter() {
            match statement {
                Statement::Store { pointer, .. } => self.store(*pointer, found),
                Statement::Atomic { .. } => found.push(ATOMIC),
                Statement::If { condition, accept, reject } => {
                    let depends = self.is_loaded(*condition);
                    self.block(accept, by_data || depends, found);
                    self.block(reject, by_data || depends, found);
                    by_data |= depends && (returns(accept) || returns(reject));
                }
                Statement::Loop { body, continuing, break_if } => {
                    let depends = break_if.is_some_and(|b| self.is_loaded(b))
                        || self.ends_by_data(body)
                        || self.ends_by_data(continuing);
                    self.block(body, by_data || depends, found);
                    self.block(continuing, by_data || depends, found);
                }
                other => {
                    let alone = Block::from_vec(vec![other.clone()]);
                    if by_data && inner(other).is_empty() && has_barrier(self.module, &alone) {
                        found.push(BARRIER);
                    }
                    for block in inner(other) {
                        self.block(block, by_data, found);
                    }
                }
            }
        }
    }

    fn store(&self, pointer: Handle<Expression>, found: &mut Vec<&'static str>) {
        let Expression::Access { base, .. } = self.function.expressions[pointer] else { return };
        let (vector, space) = match *self.info[base].ty.inner_with(&self.module.types) {
            TypeInner::Pointer { base, space } => {
                (matches!(self.module.types[base].inner, TypeInner::Vector { .. }), space)
            }
            TypeInner::ValuePointer { size, space, .. } => (size.is_some(), space),
            _ => return,
        };
        // A buffer is written by its address.
        if vector && !matches!(space, AddressSpace::Storage { .. }) {
            found.push(COMPONENT);
        }
    }

    fn is_bounded(&self, value: Handle<Expression>) -> bool {
        let expression = &self.function.expressions[value];
        match expression {
            Expression::Math {
                fun: MathFunction::Clamp | MathFunction::Min | MathFunction::Max,
                ..
            } => true,
            Expression::Load { .. } => false,
            other => operands(other).into_iter().any(|o| self.is_bounded(o)),
        }
    }

    /// Whether bits are those of an infinity or a NaN, whatever is added to them.
    fn not_finite(&self, bits: Handle<Expression>) -> bool {
        match &self.function.expressions[bits] {
            Expression::Literal(Literal::U32(v)) => v >> 23 & 0xff == 0xff,
            Expression::Binary { op: BinaryOperator::InclusiveOr, left, right } => {
                self.not_finite(*left) || self.not_finite(*right)
            }
            _ => false,
        }
    }

    /// Whether two expressions are one number, for all that the text says.
    fn same(&self, one: Handle<Expression>, other: Handle<Expression>) -> bool {
        let (a, b) = (&self.function.expressions[one], &self.function.expressions[other]);
        one == other
            || match (a, b) {
                (Expression::Literal(a), Expression::Literal(b)) => a == b,
                (Expression::Splat { value: a, .. }, Expression::Splat { value: b, .. }) => {
                    self.same(*a, *b)
                }
                (Expression::ZeroValue(a), Expression::ZeroValue(b)) => a == b,
                _ => false,
            }
    }

    /// Whether a choice is a minimum or a maximum of floats in other words.
    fn is_extreme(&self, expression: &Expression) -> bool {
        let Expression::Select { condition, accept, reject } = expression else { return false };
        let Expression::Binary { op, left, right } = self.function.expressions[*condition] else {
            return false;
        };
        use BinaryOperator::{Greater, GreaterEqual, Less, LessEqual};
        let kind = self.info[*accept].ty.inner_with(&self.module.types).scalar_kind();
        let both = |a, b| self.same(*accept, a) && self.same(*reject, b);
        matches!(op, Greater | GreaterEqual | Less | LessEqual)
            && kind == Some(ScalarKind::Float)
            && (both(left, right) || both(right, left))
    }

    fn expression(&self, expression: &Expression, found: &mut Vec<&'static str>) {
        match expression {
            Expression::As { expr, kind: ScalarKind::Float, convert: None }
                if self.not_finite(*expr) =>
            {
                found.push(NOT_FINITE);
            }
            Expression::Literal(Literal::F32(v)) if !v.is_finite() => found.push(NOT_FINITE),
            Expression::Math { fun: MathFunction::Exp | MathFunction::Exp2, arg, .. }
                if !self.is_bounded(*arg) =>
            {
                found.push(UNBOUNDED);
            }
            Expression::Math {
                fun: MathFunction::Tanh | MathFunction::Sinh | MathFunction::Cosh,
                ..
            } => found.push(UNBOUNDED),
            choice if self.is_extreme(choice) => found.push(CHOICE),
            _ => {}
        }
    }
}
