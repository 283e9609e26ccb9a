//! What each payment product allows `[D 3.7]`.

/// The rules of one `payment_product_type`.
#[expect(clippy::struct_excessive_bools, reason = "each is a separate fact of [D 3.7]")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Which lines capture and refund must name.
    pub items: Items,
    /// Captured when paid: neither capture nor void ever applies (Swish, terminals).
    pub captured_at_once: bool,
    /// Void releases the rest after a part capture `[D 3.3]`.
    pub void_remainder: bool,
    /// `final_capture` is understood `[D 3.1]`.
    pub final_capture: bool,
    /// Refunds are accepted (202) and completed later. Which products do so is not listed `[D 12 #11]`.
    pub refund_later: bool,
    /// Refunds need `terminal_id` `[D 3.2]`.
    pub refund_terminal: bool,
    /// What `POST …/authorization` does `[D 3.8]`.
    pub authorization: Authorization,
    /// An amount of zero can be captured, refunded and voided `[D 12 #17]`.
    pub zero_amount: bool,
}

/// Which lines capture and refund must name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Items {
    /// They may be left out.
    #[default]
    Optional,
    /// Required, each with `line_id`, `quantity` and `amount`.
    Required,
    /// Only whole lines move. Without items, only all that is left `[D 12 #16]`.
    WholeLines,
}

/// What `POST …/authorization` does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Authorization {
    /// It is refused.
    #[default]
    None,
    /// Without an amount it extends, with one it sets a new total.
    Klarna,
    /// It raises a pre-authorization; `final_authorization` locks it.
    Preauthorization,
    /// It authorizes an on-hold transaction.
    External,
}

/// The rules of a `payment_product_type`; a type that is not known has only the general ones.
pub fn rules(product_type: &str) -> Rules {
    let general = Rules::default();
    match product_type {
        "vipps" | "payex.creditcard" | "payex.mobilepay" | "payex.vipps" | "payex.applepay"
        | "payex.clicktopay" | "payex.googlepay" => Rules { void_remainder: true, ..general },
        "klarna.klarna" | "klarna.billie" => {
            Rules { void_remainder: true, authorization: Authorization::Klarna, ..general }
        }
        "seitatech.in_person" => {
            Rules { captured_at_once: true, refund_later: true, refund_terminal: true, ..general }
        }
        "dintero.external" => Rules { authorization: Authorization::External, ..general },
        "dintero.zero" => Rules { zero_amount: true, ..general },
        other => match product(other) {
            "dintero_psp" => {
                Rules { final_capture: true, authorization: Authorization::Preauthorization, ..general }
            }
            "instabank" => Rules { items: Items::Required, ..general },
            "collector" => Rules { items: Items::WholeLines, ..general },
            "swish" => Rules { captured_at_once: true, refund_later: true, ..general },
            _ => general,
        },
    }
}

/// The `payment_product` of a `payment_product_type`: what stands before the dot.
pub fn product(product_type: &str) -> &str {
    product_type.split('.').next().unwrap_or(product_type)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_remainder_is_voidable_for_the_documented_products_only() {
        let voidable = [
            "payex.creditcard",
            "payex.mobilepay",
            "payex.vipps",
            "payex.applepay",
            "payex.clicktopay",
            "payex.googlepay",
            "vipps",
            "klarna.klarna",
            "klarna.billie",
        ];
        assert!(voidable.iter().all(|product| rules(product).void_remainder));
        assert!(!rules("dintero_psp.creditcard").void_remainder);
        assert!(!rules("collector.invoice").void_remainder);
    }

    #[test]
    fn a_type_without_a_dot_is_its_own_product() {
        assert_eq!(product("vipps"), "vipps");
        assert_eq!(product("swish.swish"), "swish");
    }
}
