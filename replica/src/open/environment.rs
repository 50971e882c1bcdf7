//! The environment, asked by name: the only place that replicas are told anything by it.

/// Gives the value of an environment variable. Tests give it their own.
pub(super) struct Environment<'a>(&'a dyn Fn(&str) -> Option<String>);

impl<'a> Environment<'a> {
    pub(super) fn new(variable: &'a dyn Fn(&str) -> Option<String>) -> Environment<'a> {
        Environment(variable)
    }

    /// The value of `name`, unless that is empty.
    pub(super) fn get(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    /// The first of `names` that has a value, with it.
    pub(super) fn first(&self, names: &[&'static str]) -> Option<(&'static str, String)> {
        names.iter().find_map(|name| Some((*name, self.get(name)?)))
    }
}
