//! stub
/// c
#[derive(Clone, Debug, Default)] pub struct ApiConfig { /// t
 pub operator_token: Option<String> }
