//! What callers may do: rules that allow and deny, at the boundary and at the terminal.

mod command;
mod days;
mod docs;
mod pace;
mod rules;

use payops::config::Config;

use crate::support::ALLOW_ALL;

/// Gives `orders` these rules in place of all rights.
pub fn let_orders(config: &Config, rules: &str) {
    let text = std::fs::read_to_string(&config.callers.file).unwrap();
    let place = text.find("name = \"returns\"").unwrap();
    let (orders, rest) = text.split_at(place);
    let before = orders.split("allow = [").next().unwrap();
    assert!(orders.contains("allow = [") && rest.contains(ALLOW_ALL));
    std::fs::write(&config.callers.file, format!("{before}allow = [{rules}]\n[[caller]]\n{rest}")).unwrap();
}
