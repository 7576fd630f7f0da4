"""The door: REST, WebRTC, the page, admission, sessions."""
