//! The columns of FOCUS 1.2 Cost and Usage, and those of our own behind them.

use super::super::columnar::{Cell, Column, Kind, Schema};

macro_rules! columns {
    ($($name:ident = $text:literal, $kind:ident, $need:ident;)*) => {
        /// A column, by name.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(super) enum Col {
            $($name,)*
        }

        static COLUMNS: [Column; COUNT] = [$(Column::$need($text, Kind::$kind),)*];

        /// How many columns there are.
        pub(super) const COUNT: usize = [$($text,)*].len();
    };
}

columns! {
    AvailabilityZone = "AvailabilityZone", Text, nullable;
    BilledCost = "BilledCost", Decimal, required;
    BillingAccountId = "BillingAccountId", Text, required;
    BillingAccountName = "BillingAccountName", Text, required;
    BillingAccountType = "BillingAccountType", Text, required;
    BillingCurrency = "BillingCurrency", Text, required;
    BillingPeriodEnd = "BillingPeriodEnd", Timestamp, required;
    BillingPeriodStart = "BillingPeriodStart", Timestamp, required;
    CapacityReservationId = "CapacityReservationId", Text, nullable;
    CapacityReservationStatus = "CapacityReservationStatus", Text, nullable;
    ChargeCategory = "ChargeCategory", Text, required;
    ChargeClass = "ChargeClass", Text, nullable;
    ChargeDescription = "ChargeDescription", Text, required;
    ChargeFrequency = "ChargeFrequency", Text, required;
    ChargePeriodEnd = "ChargePeriodEnd", Timestamp, required;
    ChargePeriodStart = "ChargePeriodStart", Timestamp, required;
    CommitmentDiscountCategory = "CommitmentDiscountCategory", Text, nullable;
    CommitmentDiscountId = "CommitmentDiscountId", Text, nullable;
    CommitmentDiscountName = "CommitmentDiscountName", Text, nullable;
    CommitmentDiscountQuantity = "CommitmentDiscountQuantity", Decimal, nullable;
    CommitmentDiscountStatus = "CommitmentDiscountStatus", Text, nullable;
    CommitmentDiscountType = "CommitmentDiscountType", Text, nullable;
    CommitmentDiscountUnit = "CommitmentDiscountUnit", Text, nullable;
    ConsumedQuantity = "ConsumedQuantity", Decimal, nullable;
    ConsumedUnit = "ConsumedUnit", Text, nullable;
    ContractedCost = "ContractedCost", Decimal, required;
    ContractedUnitPrice = "ContractedUnitPrice", Decimal, nullable;
    EffectiveCost = "EffectiveCost", Decimal, required;
    InvoiceId = "InvoiceId", Text, required;
    InvoiceIssuerName = "InvoiceIssuerName", Text, required;
    ListCost = "ListCost", Decimal, required;
    ListUnitPrice = "ListUnitPrice", Decimal, nullable;
    PricingCategory = "PricingCategory", Text, nullable;
    PricingCurrency = "PricingCurrency", Text, required;
    PricingCurrencyContractedUnitPrice = "PricingCurrencyContractedUnitPrice", Decimal, nullable;
    PricingCurrencyEffectiveCost = "PricingCurrencyEffectiveCost", Decimal, required;
    PricingCurrencyListUnitPrice = "PricingCurrencyListUnitPrice", Decimal, nullable;
    PricingQuantity = "PricingQuantity", Decimal, nullable;
    PricingUnit = "PricingUnit", Text, nullable;
    ProviderName = "ProviderName", Text, required;
    PublisherName = "PublisherName", Text, required;
    RegionId = "RegionId", Text, nullable;
    RegionName = "RegionName", Text, nullable;
    ResourceId = "ResourceId", Text, nullable;
    ResourceName = "ResourceName", Text, nullable;
    ResourceType = "ResourceType", Text, nullable;
    ServiceCategory = "ServiceCategory", Text, required;
    ServiceName = "ServiceName", Text, required;
    ServiceSubcategory = "ServiceSubcategory", Text, required;
    SkuId = "SkuId", Text, nullable;
    SkuMeter = "SkuMeter", Text, nullable;
    SkuPriceDetails = "SkuPriceDetails", Json, nullable;
    SkuPriceId = "SkuPriceId", Text, nullable;
    SubAccountId = "SubAccountId", Text, nullable;
    SubAccountName = "SubAccountName", Text, nullable;
    SubAccountType = "SubAccountType", Text, nullable;
    Tags = "Tags", Json, nullable;
    ChargeKind = "x_ChargeKind", Text, required;
    ChargedPeriod = "x_ChargedPeriod", Text, required;
    GpuCount = "x_GpuCount", Integer, nullable;
    LedgerPosition = "x_LedgerPosition", Integer, nullable;
    Rule = "x_Rule", Text, nullable;
}

/// The table.
pub static COST_AND_USAGE: Schema = Schema { name: "cost_and_usage", columns: &COLUMNS };

impl Col {
    pub(super) const fn index(self) -> usize {
        self as usize
    }

    pub(super) fn name(self) -> &'static str {
        COLUMNS.get(self.index()).map_or("", |column| column.name)
    }
}

/// A row that is being filled in: what is not set is null.
#[derive(Debug, Clone)]
pub(super) struct Row<'a>([Cell<'a>; COUNT]);

impl<'a> Row<'a> {
    pub(super) fn new() -> Self {
        Self([Cell::Null; COUNT])
    }

    #[inline]
    pub(super) fn set(&mut self, col: Col, cell: impl Into<Cell<'a>>) {
        if let Some(place) = self.0.get_mut(col.index()) {
            *place = cell.into();
        }
    }

    pub(super) fn cells(&self) -> &[Cell<'a>] {
        &self.0
    }
}

/// Why a row is there: the values of `x_ChargeKind`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChargeKind {
    /// GPU-hours at the list or contract price.
    OnDemand,
    /// GPU-hours at the price of a spot pool.
    Spot,
    /// GPU-hours out of a reservation.
    ReservedUsed,
    /// GPU-hours of a reservation that nobody used.
    ReservedUnused,
    /// What GPU-hours out of a flex reservation cost besides, because they were used.
    FlexUsage,
    /// What a reservation costs, used or not.
    Purchase,
    /// What allowances, tiers and commitments make of usage.
    ContractRules,
    /// What a period lacked to its minimum.
    Minimum,
    /// What a commitment lacked at the end of its term.
    TrueUp,
    /// Paid by credit that was given.
    Promotion,
    /// Paid by credit that was bought.
    Prepaid,
    /// The tax of an invoice.
    Tax,
    /// What rounding an invoice to minor units gained or lost.
    Rounding,
}

impl ChargeKind {
    /// Every kind.
    pub const ALL: [Self; 13] = [
        Self::OnDemand,
        Self::Spot,
        Self::ReservedUsed,
        Self::ReservedUnused,
        Self::FlexUsage,
        Self::Purchase,
        Self::ContractRules,
        Self::Minimum,
        Self::TrueUp,
        Self::Promotion,
        Self::Prepaid,
        Self::Tax,
        Self::Rounding,
    ];

    /// The value in the column.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OnDemand => "on_demand",
            Self::Spot => "spot",
            Self::ReservedUsed => "reserved_used",
            Self::ReservedUnused => "reserved_unused",
            Self::FlexUsage => "flex_usage",
            Self::Purchase => "purchase",
            Self::ContractRules => "contract_rules",
            Self::Minimum => "minimum",
            Self::TrueUp => "true_up",
            Self::Promotion => "promotion",
            Self::Prepaid => "prepaid",
            Self::Tax => "tax",
            Self::Rounding => "rounding",
        }
    }

    /// `ChargeCategory`.
    pub(super) const fn category(self) -> &'static str {
        match self {
            Self::OnDemand | Self::Spot | Self::ReservedUsed | Self::ReservedUnused | Self::FlexUsage => {
                "Usage"
            }
            Self::Purchase => "Purchase",
            Self::ContractRules | Self::Minimum | Self::TrueUp | Self::Rounding => "Adjustment",
            Self::Promotion | Self::Prepaid => "Credit",
            Self::Tax => "Tax",
        }
    }

    /// `PricingCategory`, where the kind alone says so.
    pub(super) const fn pricing(self) -> Option<&'static str> {
        match self {
            Self::OnDemand | Self::FlexUsage | Self::Purchase => Some("Standard"),
            Self::Spot => Some("Dynamic"),
            Self::ReservedUsed | Self::ReservedUnused => Some("Committed"),
            _ => None,
        }
    }

    /// Whether the invoice adds it to the exact sum of its lines.
    pub const fn is_beyond_exact(self) -> bool {
        matches!(self, Self::Tax | Self::Rounding)
    }
}
